"""A progress bar on stderr, fed by a run's events."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from urst_tiles.events import Event, PhaseProgress, PhaseStarted, RunFinished, RunStarted, ShardFinished, TilesFinished

__all__ = ["ProgressBar"]

_PHASES = {
    "wait": "waiting",
    "spool": "unpacking",
    "statistics": "thumbnail",
    "shards": "stylizing",
    "pyramid": "pyramid",
    "export": "exporting",
}


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        # Only the shards are counted in pixels.
        return Text("" if speed is None or not task.fields["counts"] else f"{speed / 1e6:.2f} MP/s", style="cyan")


class ProgressBar:
    """A callback that draws shards done, megapixels, speed and time left; nothing where stderr is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            _Speed(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or not console.is_terminal,
            # Windows take seconds on a CPU: a short memory would make the time left jump.
            speed_estimate_period=120,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, counts="")
        self._pixels = self._pixels_done = self._shards = self._shards_done = 0

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseStarted(name):
                self._progress.reset(self._task, total=None, description=_PHASES.get(name, name), counts="")
            case PhaseProgress(_, done, total):
                self._progress.update(self._task, completed=done, total=total, counts="")
            case RunStarted(shards, shards_done, pixels, pixels_done):
                self._shards, self._shards_done = shards, shards_done
                self._pixels, self._pixels_done = pixels, pixels_done
                self._progress.reset(self._task, total=pixels - pixels_done, description="stylizing", counts="")
                self._draw()
            case TilesFinished(_, pixels):
                self._pixels_done += pixels
                self._progress.advance(self._task, pixels)
                self._draw()
            case ShardFinished():
                self._shards_done += 1
                self._draw()
            case RunFinished():
                self._progress.update(self._task, description="done")

    def _draw(self) -> None:
        counts = f"{self._pixels_done / 1e6:.1f}/{self._pixels / 1e6:.1f} MP, shards {self._shards_done}/{self._shards}"
        self._progress.update(self._task, counts=counts)

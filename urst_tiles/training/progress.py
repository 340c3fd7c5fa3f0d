"""Callbacks for people: a progress line on stderr, and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from urst_tiles.errors import InputError
from urst_tiles.training.events import (
    PaintingSkipped,
    PhotoSkipped,
    StepFinished,
    StepSkipped,
    TrainingCallback,
    TrainingEvent,
    TrainingStarted,
)

__all__ = ["TrainingProgress", "board"]


class TrainingProgress:
    """A callback that draws steps, losses and time left; where stderr is no terminal, a line every hundred steps."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
            # Steps take seconds: a short memory would make the time left jump.
            speed_estimate_period=300,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=None, losses="")

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: TrainingEvent) -> None:
        match event:
            case TrainingStarted():
                self._progress.update(self._task, total=event.steps, completed=event.step)
                self._console.print(_began(event))
            case StepFinished():
                parts = ", ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
                said = f"loss {event.total:.3f} ({parts})"
                self._progress.update(self._task, completed=event.step, losses=said)
                if not self._live and event.step % 100 == 0:
                    self._console.print(f"step {event.step} of {event.steps}: {said}")
            case StepSkipped(step, skipped):
                self._console.print(f"step {step} skipped: its gradient is not finite ({skipped} so far)")
            case PhotoSkipped(path, reason):
                self._console.print(f"photo {path} left out: {reason}")
            case PaintingSkipped(path, reason):
                self._console.print(f"painting {path} left out: {reason}")


def _began(event: TrainingStarted) -> str:
    any_style = (
        f"{event.paintings} paintings, {event.held_out_paintings} held out; decoder from {event.decoder}; "
        if event.decoder
        else ""
    )
    return (
        f"{event.photos} photos, {event.held_out} held out; {any_style}strokes compared at {event.stroke_layer}; "
        f"{event.precision}"
    )


@contextmanager
def board(folder: Path | None) -> Iterator[TrainingCallback]:
    """A callback that writes losses for TensorBoard into ``folder``; None writes nothing.

    Raises:
        InputError: TensorBoard is not installed.
    """
    if folder is None:
        yield lambda _event: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed; pip install tensorboard, or leave out --tensorboard") from error
    writer = SummaryWriter(str(folder))

    def write(event: TrainingEvent) -> None:
        if isinstance(event, StepFinished):
            for name, value in {**event.losses, "total": event.total, "gradient": event.gradient}.items():
                writer.add_scalar(name, value, event.step)

    try:
        yield write
    finally:
        writer.close()

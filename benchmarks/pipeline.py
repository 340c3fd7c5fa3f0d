"""What of an engine's speed a whole run keeps.

    python -m benchmarks.throughput --pipeline [--megapixels 85] [--methods style]

The engine alone runs windows of the sizes, the number and the batches of the run's own plan, from memory, in as many
calls at the same time as the run makes. Both are measured in turn in one process. What a run sustains is the slope of
its windows' pixels, halos included, as it tells of them between a tenth and nine tenths: windows at the raster's
borders are smaller, and those inside would seem slower by what they keep. The whole of it, given beside that, is its
shards' seconds: from the first one's reading to the last one's being on disk, with the cluster's start and what the
engine takes to compile the network; statistics and pyramid are not in it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import save
from benchmarks.measuring import Spread, Worker, alternate, serve

if TYPE_CHECKING:
    from urst_tiles.geometry import Window

__all__ = ["pieces_of", "run"]

MODULE = "benchmarks.pipeline"
WANTED = 0.95


class Child:
    """Answers one process's questions about one method and one raster."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from benchmarks.engines import engine_of, run_options
        from benchmarks.subjects import subject
        from urst_tiles import collect_statistics, open_source, plan

        folder = settings["weights_dir"]
        self._settings, self._network = settings, subject(settings["method"], folder and Path(folder)).network
        thumbnail = open_source(settings["raster"]).thumbnail(256)
        self._statistics = collect_statistics(self._network, thumbnail)
        self._options = run_options(settings["engine"])
        self._plan = plan(settings["raster"], self._network, time_it=False, **self._options)
        frozen = self._network.freeze(self._statistics)
        self._engine = engine_of(settings["engine"], frozen, calls=self._plan.calls)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        tiles = self._plan.tiles
        if question["what"] == "facts":
            return {
                "window": tiles.window,
                "halo": tiles.halo,
                "windows": tiles.tile_count,
                "shards": len(tiles),
                "window_pixels": tiles.window_pixels,
                "calls": self._plan.calls,
            }
        return self._alone() if question["what"] == "alone" else self._run()

    def _alone(self) -> dict[str, Any]:
        from urst_tiles.allocator import return_freed_memory

        return_freed_memory()  # as a run does
        calls = self._calls()
        pieces = {call: pieces_of(*call) for call in calls}
        started = time.perf_counter()
        turns = (pieces[call] for call, times in calls.items() for _ in range(times))
        with ThreadPoolExecutor(self._plan.calls) as pool:
            for _ in pool.map(self._engine.run, turns):
                pass
        return {"seconds": time.perf_counter() - started}

    def _calls(self) -> Counter[tuple[int, int, int, Window, int]]:
        """(windows, height, width, what is kept of each, rim) of the run's calls of its engine, and how often each is
        made."""
        calls: Counter[tuple[int, int, int, Window, int]] = Counter()
        batch = self._plan.batch
        for shard in self._plan.tiles:
            sizes = Counter((tile.window.height, tile.window.width, tile.crop, tile.rim) for tile in shard.tiles)
            for size, count in sizes.items():
                calls[(batch, *size)] += count // batch
                if count % batch:
                    calls[(count % batch, *size)] += 1
        return +calls

    def _run(self) -> dict[str, Any]:
        from urst_tiles import stylize
        from urst_tiles.events import TilesFinished

        target = Path(self._settings["raster"]).with_suffix(".zarr")
        # Pixels that the network is given for each that is kept, by shard.
        overheads = [sum(tile.window.area for tile in shard.tiles) / shard.core.area for shard in self._plan.tiles]
        told: list[tuple[float, float]] = []

        def listen(event: object) -> None:
            if isinstance(event, TilesFinished):
                told.append((time.perf_counter(), event.pixels * overheads[event.shard]))

        report = stylize(
            self._settings["raster"],
            target,
            network=self._network,
            statistics=self._statistics,
            overwrite=True,
            callbacks=[listen],
            **self._options,
        )
        return {"seconds": report.seconds_shards, "sustained": _slope(told)}


def _slope(told: list[tuple[float, float]]) -> float:
    """Pixels a second, between a tenth and nine tenths of them."""
    import numpy as np

    seconds, pixels = np.array([at for at, _ in told]), np.cumsum([count for _, count in told])
    first, last = np.searchsorted(pixels, [0.1 * pixels[-1], 0.9 * pixels[-1]])
    return float(np.polyfit(seconds[first : last + 1], pixels[first : last + 1], 1)[0])


def pieces_of(count: int, height: int, width: int, kept: Window, rim: int) -> Any:
    """A call's windows; what is kept of them goes to one place."""
    import numpy as np

    from urst_tiles.demo import landscape
    from urst_tiles.engines import Piece

    window = landscape(0, 0, width, height, width, height)
    return [Piece(window, np.empty((3, kept.height, kept.width), np.uint8), kept.slices, rim)] * count


def run(
    methods: list[str], engines: list[str], megapixels: float, repetitions: int, weights_dir: str | None, name: str
) -> None:
    """Measure, print and save."""
    from benchmarks.memory import sides
    from urst_tiles.demo import make_raster

    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-pipeline-") as scratch:
        raster = Path(scratch) / "raster.tif"
        make_raster(raster, *sides(megapixels))
        for method in methods:
            for engine in engines:
                settings = {
                    "method": method,
                    "engine": engine,
                    "raster": str(raster),
                    "weights_dir": weights_dir,
                }
                try:
                    rows.append({"method": method, "engine": engine, **compared(settings, repetitions)})
                except RuntimeError as error:
                    print(f"{method}, {engine}: {error}", flush=True)
                    continue
                share, whole = (Spread(**rows[-1][key]) for key in ("sustained_of_alone", "run_of_alone"))
                said = "" if share.median >= WANTED else f"   less than {WANTED}"
                print(
                    f"{method}, {engine}: a run sustains {share} of the engine's speed alone{said}; "
                    f"with its beginning and its end {whole}",
                    flush=True,
                )
    print(f"wrote {save(name, {'megapixels': megapixels, 'runs': rows})}")


def compared(settings: dict[str, Any], repetitions: int) -> dict[str, Any]:
    with Worker(MODULE, settings) as worker:
        facts = worker.ask(what="facts")
        ways = {what: partial(_answer, worker, what) for what in ("alone", "run")}
        answers = alternate(ways, repetitions)
    seconds = {what: [answer["seconds"] for answer in answers[what]] for what in ways}
    whole = [alone / run for alone, run in zip(seconds["alone"], seconds["run"], strict=True)]
    sustained = [
        answer["sustained"] * alone / facts["window_pixels"]
        for answer, alone in zip(answers["run"], seconds["alone"], strict=True)
    ]
    return {
        **facts,
        "seconds": seconds,
        "sustained_of_alone": Spread.of(sustained).to_json(),
        "run_of_alone": Spread.of(whole).to_json(),
    }


def _answer(worker: Worker, what: str) -> dict[str, float]:
    return worker.ask(what=what)


if __name__ == "__main__":  # the child's end; people start it by benchmarks.throughput --pipeline
    serve(Child(json.loads(sys.argv[sys.argv.index("--child") + 1])).answer)

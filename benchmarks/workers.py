"""One process, one worker process and two of them on this machine: time, memory of all processes, and whether the
results are the same.

    python -m benchmarks.workers [--megapixels 24] [--style starry-night] [--repetitions 3]

The ways take turns. Seconds are those of the shards, with the workers' start; memory is the resident one of the driver
and all it started, sampled ten times a second. Results go to benchmarks/results/workers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import in_subprocess, save

MODULE = "benchmarks.workers"
WAYS = (0, 1, 2)
"""Worker processes; 0: threads of the driver."""


class TreeMemory:
    """The most that this process and its descendants have held together since it was entered; pages they share count
    for each."""

    def __init__(self) -> None:
        self.peak, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._end.wait(0.1):
            held = 0
            for each in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    held += each.memory_info().rss
            self.peak = max(self.peak, held)


def digest(store: Path) -> str:
    """Of every level's files."""
    found = hashlib.sha256()
    for path in sorted(path for path in store.glob("[0-9]*/**/*") if path.is_file()):
        found.update(path.relative_to(store).as_posix().encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def child(raster: str, target: str, style: str, workers: int) -> dict[str, Any]:
    from urst_tiles import stylize

    started = time.perf_counter()
    with TreeMemory() as memory:
        report = stylize(raster, target, style=style, workers=workers or None, engine="torch", overwrite=True)
    return {
        "seconds_shards": report.seconds_shards,
        "seconds": time.perf_counter() - started,
        "peak_bytes_of_all": memory.peak,
        "digest": digest(Path(target)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--style", default="starry-night", help="a shipped one")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        raster, target, style, workers = given.child
        print(json.dumps(child(raster, target, style, int(workers))))
        return
    from benchmarks.memory import sides
    from urst_tiles.demo import make_raster

    runs: dict[int, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-workers-") as scratch:
        raster = Path(scratch) / "raster.tif"
        make_raster(raster, *sides(given.megapixels))
        for _ in range(given.repetitions):
            for way in WAYS:
                runs[way].append(in_subprocess(MODULE, raster, Path(scratch) / f"{way}.zarr", given.style, way))
                if "error" in runs[way][-1]:
                    raise SystemExit(f"{way} workers: {runs[way][-1]['error']}")
                print(way, "workers:", json.dumps(runs[way][-1]), flush=True)
    alike = len({run["digest"] for way in WAYS for run in runs[way]}) == 1
    ratios = {
        f"{way} workers over one process": median(run["seconds_shards"] for run in runs[way])
        / median(run["seconds_shards"] for run in runs[0])
        for way in WAYS[1:]
    }
    found = {"megapixels": given.megapixels, "style": given.style, "all results alike": alike, "seconds": ratios}
    print(json.dumps(found), "wrote", save("workers", {**found, "runs": {str(way): runs[way] for way in WAYS}}))
    if not alike:
        raise SystemExit("the results differ")


if __name__ == "__main__":
    main()

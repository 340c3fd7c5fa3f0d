"""What driving a run costs per shard, beyond the shard's own work: time, and memory that is not given back.

    python -m benchmarks.driver [--shards 1000 10000 …]

A raster of one colour goes through the identity network in shards of 8 x 16 pixels, so that nearly all there is to do
is the driver's: choosing shards, handing them out, the ledger. The same shards processed in a plain loop, without
Dask and ledger, are the work itself, by one thread. Each of the two is a process of its own. The cluster's start counts
as the driver's; there is no pyramid. Prints a table; results go to benchmarks/results/driver.json.

Bytes a shard are the growth of the resident memory from a fifth of the shards to the last, by least squares.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import in_subprocess, save
from urst_tiles import stylize
from urst_tiles.engines.torch import TorchEngine
from urst_tiles.errors import RunStopped
from urst_tiles.estimating import store_layout
from urst_tiles.events import Event, RunStarted, ShardFinished
from urst_tiles.geometry import Window, plan_tiles
from urst_tiles.networks import load_network
from urst_tiles.shards import process_shard
from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.statistics import Statistics
from urst_tiles.stores import OmeZarrStore

CORE = 4
"""Side of a core in pixels, and of a window: the identity has no halo."""
SAMPLES = 100
"""How often the memory is looked at."""


@dataclass(frozen=True)
class OneColour:
    """A square raster of one colour, of any size."""

    side: int

    @property
    def info(self) -> RasterInfo:
        return RasterInfo(self.side, self.side, bands=3, dtype="uint8", colour="rgb", alpha=False)

    @property
    def name(self) -> str:
        return "one colour"

    def fingerprint(self) -> dict[str, Any]:
        return {"side": self.side}

    def read(self, window: Window) -> Pixels:
        return np.full((window.height, window.width, 3), 100, np.uint8)

    def thumbnail(self, short_side: int) -> Pixels:
        return np.full((short_side, short_side, 3), 100, np.uint8)

    def cache_bytes(self, width: int) -> int:
        return 3 * width


class Watch:
    """Resident memory and time as shards are finished."""

    def __init__(self, shards: int) -> None:
        self._every, self._process = max(1, shards // SAMPLES), psutil.Process()
        self._seen = list[tuple[int, int]]()
        self.finished, self._started, self._last = 0, 0.0, 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._started = time.perf_counter()
        if isinstance(event, ShardFinished):
            self.finished += 1
            self._last = time.perf_counter()
            if self.finished % self._every == 0:
                self._seen.append((self.finished, self._process.memory_info().rss))

    @property
    def seconds(self) -> float:
        return self._last - self._started

    @property
    def bytes_a_shard(self) -> float:
        count, rss = np.array(self._seen[len(self._seen) // 5 :], float).T
        return float(np.polyfit(count, rss, 1)[0])


def driven(source: OneColour, shards: int, folder: Path) -> dict[str, float]:
    count = len(plan_tiles(source.side, source.side, window=CORE, halo=0, stride=1))
    watch, processor = Watch(shards), time.process_time()
    with contextlib.suppress(RunStopped):
        stylize(
            source,
            folder / "out.zarr",
            network=load_network("identity"),
            statistics=Statistics({}),
            window=CORE,
            device="cpu",
            callbacks=(watch,),
            stop=lambda: watch.finished == count,
        )
    return {
        "shards": watch.finished,
        "seconds": watch.seconds,
        "processor_seconds": time.process_time() - processor,
        "bytes_a_shard": watch.bytes_a_shard,
    }


def looped(source: OneColour, shards: int, folder: Path) -> dict[str, float]:
    """The first ``shards`` shards, one after another."""
    tiles = plan_tiles(source.side, source.side, window=CORE, halo=0, stride=1)
    store = OmeZarrStore.create(folder / "out.zarr", store_layout(source.info, tiles))
    engine = TorchEngine(load_network("identity").freeze(Statistics({})), device="cpu")
    count = min(shards, len(tiles))
    started = time.perf_counter()
    for index in range(count):
        process_shard(tiles[index], source, engine, store, batch=1)
    return {"shards": count, "seconds": time.perf_counter() - started}


WAYS: dict[str, Callable[[OneColour, int, Path], dict[str, float]]] = {"driven": driven, "looped": looped}


def measured(way: str, shards: int) -> dict[str, float]:
    side = ceil((shards / 2) ** 0.5) * 4 * CORE  # half as many down as across
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-driver-") as scratch:
        return WAYS[way](OneColour(side), shards, Path(scratch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments.child[0], int(arguments.child[1]))))
        return
    rows = []
    print(f"{'shards':>8} {'driven':>12} {'work alone':>12} {'driver':>12} {'grows by':>16}")
    for shards in arguments.shards:
        run = in_subprocess("benchmarks.driver", "driven", shards)
        work = in_subprocess("benchmarks.driver", "looped", min(shards, 2000))
        rows.append({"driven": run, "looped": work})
        if "error" in run or "error" in work:
            print(shards, run.get("error"), work.get("error"))
            continue
        each, alone = (1e3 * row["seconds"] / row["shards"] for row in (run, work))
        print(
            f"{run['shards']:>8} {each:>9.2f} ms {alone:>9.2f} ms {each - alone:>9.2f} ms "
            f"{run['bytes_a_shard']:>8.0f} B a shard",
            flush=True,
        )
    save("driver", {"core": CORE, "runs": rows})


if __name__ == "__main__":
    main()

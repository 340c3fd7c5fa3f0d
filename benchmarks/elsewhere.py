"""How busy a run keeps an engine that computes elsewhere, as a GPU does: it takes its time for every pixel and none of
this machine's cores.

    python -m benchmarks.elsewhere [--megapixels 200] [--rates 10 30 100] [--in-flight 1 2 3 4] [--raster FILE]

Shards are read from a tiled TIFF, their windows wait for as long as an engine of so many megapixels a second would
take, and are written to an OME-Zarr, with so many shards in flight. Busy is the share of the time from the first window
to the last in which the engine had one. What reading and writing take of this machine's cores is the limit in any case.
Results go to benchmarks/results/elsewhere.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.common import in_subprocess, save
from urst_tiles.engines import Piece

MODULE = "benchmarks.elsewhere"
WINDOW, HALO, STRIDE = 1064, 56, 4
"""In pixels: those of a Johnson network."""


class Elsewhere:
    """An engine of so many pixels a second, one call at a time. What comes out is what went in."""

    description, limit, device_peak = "elsewhere", None, None

    def __init__(self, rate: float) -> None:
        self._rate, self._lock = rate, threading.Lock()
        self.busy, self.first, self.last = 0.0, 0.0, 0.0

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        pixels = sum(piece.window[..., 0].size for piece in pieces)
        with self._lock:
            started = time.perf_counter()
            self.first = self.first or started
            time.sleep(pixels / self._rate)
            self.last = time.perf_counter()
            self.busy += self.last - started
        for piece in pieces:
            piece.place[:] = piece.window[piece.crop].transpose(2, 0, 1)
        if on_taken is not None:
            on_taken()


def child(raster: str, target: str, rate: str, in_flight: str) -> dict[str, float]:
    from urst_tiles import load_network, open_source, scheduling
    from urst_tiles.clusters import local_client
    from urst_tiles.estimating import store_layout
    from urst_tiles.geometry import plan_tiles
    from urst_tiles.reading import as_it_is_read
    from urst_tiles.running import back_and_forth
    from urst_tiles.statistics import Statistics
    from urst_tiles.stores import OmeZarrStore

    source = open_source(raster)
    tiles = plan_tiles(source.info.width, source.info.height, window=WINDOW, halo=HALO, stride=STRIDE)
    engine = Elsewhere(1e6 * float(rate))
    job = scheduling.ShardJob(
        plan=tiles,
        source=as_it_is_read(source, tiles, "edges"),
        store=OmeZarrStore.create(Path(target), store_layout(source.info, tiles)),
        network=load_network("identity").freeze(Statistics({})),
        batch=1,
        device="cpu",
        precision="float32",
    )
    with patch.object(scheduling, "make_engine", lambda *_, **__: engine), local_client(int(in_flight)) as client:
        scheduling.run_shards(
            job,
            back_and_forth(range(len(tiles)), tiles.grid[1]),
            client=client,
            in_flight=int(in_flight),
            on_report=lambda _: None,
        )
    span = engine.last - engine.first
    return {"busy": engine.busy / span, "megapixels_per_second": source.info.pixels / span / 1e6, "shards": len(tiles)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=200, help="of the raster that is made")
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 30, 100], help="megapixels a second")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 2, 3, 4], help="shards")
    parser.add_argument("--raster", type=Path, help="one of yours instead: photographs compress worse")
    parser.add_argument("--name", default="elsewhere", help="of the result file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-elsewhere-") as scratch:
        raster = arguments.raster or _made(Path(scratch) / "raster.tif", arguments.megapixels)
        for rate in arguments.rates:
            for in_flight in arguments.in_flight:
                target = Path(scratch) / f"{rate}-{in_flight}.zarr"
                row = in_subprocess(MODULE, raster.absolute(), target, rate, in_flight)
                rows.append({"rate": rate, "in_flight": in_flight, **row})
                said = row.get("error") or f"busy {row['busy']:.3f}, {row['megapixels_per_second']:.1f} MP/s"
                print(f"an engine of {rate:g} MP/s, {in_flight} shards in flight: {said}", flush=True)
    raster_said = arguments.raster.name if arguments.raster else f"made, {arguments.megapixels:g} megapixels"
    print(f"wrote {save(arguments.name, {'raster': raster_said, 'runs': rows})}")


def _made(path: Path, megapixels: float) -> Path:
    from benchmarks.memory import sides
    from urst_tiles.demo import make_raster

    make_raster(path, *sides(megapixels))
    return path


if __name__ == "__main__":
    main()

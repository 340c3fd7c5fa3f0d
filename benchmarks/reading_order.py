"""What going through the shards back and forth saves against row after row, and keeping what neighbours share: bytes
read from the raster's file, and the processor's seconds.

    python -m benchmarks.reading_order [--megapixels 200] [--halo 56] [--readers 1 2]

Shards are read as a run reads them, strip by strip, by one thread or by several at once, and nothing is done with them.
What a reader keeps decoded it does not read again; a byte read twice is a tile decoded twice. Each order is a process
of its own. Results go to benchmarks/results/reading_order.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import in_subprocess, save

MODULE = "benchmarks.reading_order"
STRIDE = 4
EDGES = "with shared edges"
"""Back and forth, and what shards share kept: what a run in one process does, but where tiles decode fast."""


def child(raster: str, order: str, readers: int, window: int, halo: int) -> dict[str, Any]:
    from benchmarks.counting import process_bytes
    from urst_tiles import open_source
    from urst_tiles.geometry import plan_tiles
    from urst_tiles.reading import as_it_is_read
    from urst_tiles.running import back_and_forth
    from urst_tiles.shards import source_crc

    source = open_source(raster)
    tiles = plan_tiles(source.info.width, source.info.height, window=window, halo=halo, stride=STRIDE)
    shards = range(len(tiles))
    chosen = list(shards if order == "row after row" else back_and_forth(shards, tiles.grid[1]))
    source = as_it_is_read(source, tiles, "edges" if order == EDGES else "windows")

    def read(index: int) -> int:
        return source_crc(source, tiles[index])

    (before, _), started = process_bytes(), time.process_time()
    with ThreadPoolExecutor(readers) as pool:
        for _ in pool.map(read, chosen):
            pass
    seconds = time.process_time() - started
    read_bytes = process_bytes()[0] - before
    return {
        "bytes_read_of_file": read_bytes / Path(raster).stat().st_size,
        "cpu_seconds": seconds,
        "shards": len(tiles),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=200)
    parser.add_argument("--window", type=int, default=1064, help="in pixels")
    parser.add_argument("--halo", type=int, default=56, help="in pixels")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--name", default="reading_order", help="of the result file")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        raster, order, *numbers = arguments.child
        print(json.dumps(child(raster, order, *map(int, numbers))))
        return
    from benchmarks.memory import sides
    from urst_tiles.demo import make_raster

    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-order-") as scratch:
        raster = Path(scratch) / "raster.tif"
        make_raster(raster, *sides(arguments.megapixels))
        for readers in arguments.readers:
            for order in ("row after row", "back and forth", EDGES):
                row = in_subprocess(MODULE, raster, order, readers, arguments.window, arguments.halo)
                rows.append({"order": order, "readers": readers, **row})
                read = row.get("error") or "{bytes_read_of_file:.4f} x the file's bytes, {cpu_seconds:.2f} s".format(
                    **row
                )
                print(f"{order:<17} {readers} readers: {read}", flush=True)
    settings = {"megapixels": arguments.megapixels, "window": arguments.window, "halo": arguments.halo}
    print(f"wrote {save(arguments.name, {**settings, 'runs': rows})}")


if __name__ == "__main__":
    main()

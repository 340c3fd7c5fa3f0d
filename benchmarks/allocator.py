"""What reading a thumbnail leaves behind, with the C library's own thresholds and with ours.

    python -m benchmarks.allocator [RASTER]

Without a raster, one of 85 megapixels is made. Results go to benchmarks/results/allocator.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import psutil

from benchmarks.common import in_subprocess, save


def child(raster: str, setting: str) -> None:
    from urst_tiles import open_source
    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.memory import peak_memory

    source = open_source(raster)
    if setting == "ours":
        return_freed_memory()
    before = psutil.Process().memory_info().rss
    source.thumbnail(1024)
    left = psutil.Process().memory_info().rss - before
    print(json.dumps({"setting": setting, "left_mib": left >> 20, "peak_mib": (peak_memory() - before) >> 20}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raster", nargs="?")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    from urst_tiles.demo import make_raster

    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-allocator-") as scratch:
        raster = arguments.raster
        if raster is None:
            raster = str(Path(scratch) / "raster.tif")
            make_raster(Path(raster), 11292, 7528)
        rows = [in_subprocess("benchmarks.allocator", raster, setting) for setting in ("default", "ours")]
    print(json.dumps(rows, indent=2))
    save("allocator", {"raster": Path(raster).name, "runs": rows})


if __name__ == "__main__":
    main()

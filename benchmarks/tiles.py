"""What decoding a plain TIFF's tiles takes, by imagecodecs as runs do it, over what it takes libvips.

    python -m benchmarks.tiles [PHOTO …] [--side 4096] [--repetitions 5]

A part of each photo (of the demo's landscape where none is given) is stored in tiles of 512 px, 8 and 16 bit, packed in
each way that is decoded so, with differences and without, and read in bands of one row of tiles, by one thread. Results
go to benchmarks/results/tiles.json: seconds of processor time over those of libvips.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.common import save
from benchmarks.measuring import Spread, alternate
from urst_tiles import open_source
from urst_tiles.demo import landscape
from urst_tiles.geometry import Window
from urst_tiles.sources.tile_reader import TileReader
from urst_tiles.sources.vips import VipsSource
from urst_tiles.sources.vips_reader import WindowReader

TILE = 512
WAYS: dict[str, dict[str, Any]] = {
    "not packed": {},
    "deflate": {"compression": "zlib"},
    "deflate of differences": {"compression": "zlib", "predictor": True},
}


def pictures(photos: Sequence[Path], side: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """(height, width, 3) with its name: uint8, and uint16 with noise in the low bits as cameras have it."""
    noise = np.random.default_rng(0)
    named = {photo.stem: open_source(photo) for photo in photos}
    for name, source in (named or {"landscape": open_source(landscape(0, 0, side, side, side, side))}).items():
        pixels = source.read(Window(0, 0, min(side, source.info.width), min(side, source.info.height)))[..., :3]
        yield name, pixels
        yield f"{name}, 16 bit", (pixels * np.uint16(256)) + noise.integers(0, 256, pixels.shape, np.uint16)


def read(reader: TileReader | WindowReader, width: int, height: int) -> float:
    """Seconds of processor time for all of it, in bands."""
    out = np.empty((TILE, width, 3), reader.read(Window(0, 0, 1, 1)).dtype)
    started = time.process_time()
    for row in range(0, height, TILE):
        rows = min(TILE, height - row)
        reader.read_into(Window(0, row, width, rows), out[:rows])
    reader.let_go()
    return time.process_time() - started


def compared(path: Path, repetitions: int) -> dict[str, Any]:
    """Of one file."""
    source = VipsSource(path)
    ours, theirs = source._reader, source._windows  # noqa: SLF001  (the same file, in both ways)
    assert isinstance(ours, TileReader)
    size = source.info.width, source.info.height
    found = alternate({"ours": partial(read, ours, *size), "libvips": partial(read, theirs, *size)}, repetitions)
    return {
        "megapixels_a_second": Spread.of(source.info.pixels / 1e6 / each for each in found["ours"]).to_json(),
        "of_libvips": Spread.of(
            one / other for one, other in zip(found["ours"], found["libvips"], strict=True)
        ).to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--side", type=int, default=4096, help="of the part of each that is taken, in pixels")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-tiles-") as scratch:
        for name, pixels in pictures(arguments.photos, arguments.side):
            rows[name] = {}
            for way, options in WAYS.items():
                path = Path(scratch) / "raster.tif"
                tifffile.imwrite(path, pixels, tile=(TILE, TILE), photometric="rgb", **options)
                rows[name][way] = found = compared(path, arguments.repetitions)
                share, speed = Spread(**found["of_libvips"]), Spread(**found["megapixels_a_second"])
                print(f"{name}, {way}: {share} of libvips' time, {speed.median:.0f} MP/s", flush=True)
    print(f"wrote {save('tiles', {'side': arguments.side, 'pictures': rows})}")


if __name__ == "__main__":
    main()

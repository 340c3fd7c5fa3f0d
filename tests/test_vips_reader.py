"""Windows of one libvips image: read in bands, by an image that is opened anew now and then."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks.counting import process_bytes
from tests.sources_support import cut, picture, tiled_tiff
from urst_tiles.geometry import Window
from urst_tiles.sources.vips import VipsSource

MODULE = "urst_tiles.sources.vips_reader"


def test_large_windows_are_read_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of any height, and an image opened anew in between, change nothing."""
    pixels = picture(500, 400, 3)
    path = tiled_tiff(tmp_path / "a.tif", pixels, compression="zlib")
    for band_bytes, cache_bytes in [(1, 1), (10_000, 20_000), (100_000, 1)]:
        monkeypatch.setattr(f"{MODULE}._BAND_BYTES", band_bytes)
        monkeypatch.setattr(f"{MODULE}._CACHE_BYTES_TIFF", cache_bytes)
        for window in (Window(0, 0, 400, 500), Window(33, 70, 300, 401), Window(1, 1, 1, 499)):
            np.testing.assert_array_equal(VipsSource(path).read(window), cut(pixels, window))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_image_opened_anew_decodes_no_tile_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pixels = tmp_path / "in.tif", np.random.default_rng(0).integers(0, 256, (2048, 640, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb")
    monkeypatch.setattr(f"{MODULE}._CACHE_BYTES_TIFF", 640 * 128 * 3)  # a row of tiles, and it is opened anew
    monkeypatch.setattr(f"{MODULE}._BAND_BYTES", 640 * 3 * 50)
    source = VipsSource(path)
    source.read(Window(0, 0, 8, 8))
    before, _ = process_bytes()
    np.testing.assert_array_equal(source.read(Window(0, 0, 640, 2048)), pixels)
    assert process_bytes()[0] - before < 1.1 * path.stat().st_size

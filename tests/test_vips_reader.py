"""Windows of one libvips image: read in bands, by an image whose decoded tiles are let go now and then."""

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
    """Bands of any height, and tiles let go in between, change nothing."""
    pixels = picture(500, 400, 3)
    path = tiled_tiff(tmp_path / "a.tif", pixels, compression="zlib")
    for band_bytes, cache_bytes in [(1, 1), (10_000, 20_000), (100_000, 1)]:
        monkeypatch.setattr(f"{MODULE}._BAND_BYTES", band_bytes)
        monkeypatch.setattr(f"{MODULE}._CACHE_BYTES_TIFF", cache_bytes)
        for window in (Window(0, 0, 400, 500), Window(33, 70, 300, 401), Window(1, 1, 1, 499)):
            np.testing.assert_array_equal(VipsSource(path)._windows.read(window), cut(pixels, window))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_tile_of_a_window_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pixels = tmp_path / "in.tif", np.random.default_rng(0).integers(0, 256, (2048, 640, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb")
    monkeypatch.setattr(f"{MODULE}._CACHE_BYTES_TIFF", 640 * 128 * 3)  # a row of tiles, and they are let go
    monkeypatch.setattr(f"{MODULE}._BAND_BYTES", 640 * 3 * 50)
    source = VipsSource(path)._windows
    source.read(Window(0, 0, 8, 8))
    before, _ = process_bytes()
    np.testing.assert_array_equal(source.read(Window(0, 0, 640, 2048)), pixels)
    assert process_bytes()[0] - before < 1.1 * path.stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_tiff_lets_go_of_its_tiles_and_keeps_its_directory(tmp_path: Path) -> None:
    """Opening it anew would read 16 bytes for each of its tiles, several times: more with each pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", pixels, tile=(32, 32), photometric="rgb", bigtiff=True)
    source, tile, directory = VipsSource(tmp_path / "in.tif")._windows, 32 * 32 * 3, 16 * 64**2

    def read_of_file() -> int:
        before, _ = process_bytes()
        np.testing.assert_array_equal(source.read(Window(1000, 700, 20, 2)), pixels[700:702, 1000:1020])
        return process_bytes()[0] - before

    assert read_of_file() > directory
    assert read_of_file() < tile  # what /proc itself is
    for _ in range(3):
        source.let_go()
        assert tile <= read_of_file() < directory

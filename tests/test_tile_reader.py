"""Tiles of plain TIFFs, decoded without libvips: the same pixels, and what is of another kind is left to it."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.counting import process_bytes
from tests.sources_support import cut, picture, tiled_tiff
from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.choice import Choice
from urst_tiles.sources.tile_reader import TileReader
from urst_tiles.sources.vips import VipsSource
from urst_tiles.sources.vips_reader import WindowReader


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bands=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16"]),
    compression=st.sampled_from([None, "zlib"]),
    predictor=st.booleans(),
    order=st.sampled_from(["<", ">"]),
    bigtiff=st.booleans(),
    tile=st.sampled_from([16, 48, 256]),
    data=st.data(),
)
def test_any_window_of_any_plain_tiff_is_what_libvips_reads(
    tmp_path: Path,
    bands: int,
    dtype: str,
    compression: str | None,
    predictor: bool,
    order: Any,
    bigtiff: bool,
    tile: int,
    data: st.DataObject,
) -> None:
    width, height = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    pixels = picture(height, width, bands, dtype)
    packed: dict[str, Any] = {"compression": compression, "predictor": predictor and compression is not None}
    path = tiled_tiff(tmp_path / "a.tif", pixels, tile=tile, byteorder=order, bigtiff=bigtiff, **packed)
    source = VipsSource(path)
    assert isinstance(source._reader, TileReader)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = Window(left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
    found = source.read(window)
    assert found.dtype == pixels.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, cut(pixels, window))
    np.testing.assert_array_equal(source._windows.read(window), cut(pixels, window))


def test_what_libvips_and_gdals_kin_write_is_read(tmp_path: Path) -> None:
    pixels = picture(300, 200, 3)
    for compression in ("none", "deflate"):
        for predictor in ("none", "horizontal"):
            path = tmp_path / f"{compression}-{predictor}.tif"
            image = pyvips.Image.new_from_array(pixels)
            image.tiffsave(str(path), tile=True, compression=compression, predictor=predictor, bigtiff=True)
            source = VipsSource(path)
            assert isinstance(source._reader, TileReader)
            np.testing.assert_array_equal(source.read(Window(7, 9, 190, 290)), pixels[9:299, 7:197])


@pytest.mark.parametrize(
    ("bands", "dtype", "options"),
    [
        (3, "uint8", {"compression": "jpeg"}),
        (3, "uint8", {"compression": "packbits"}),
        (3, "uint8", {"compression": "lzw"}),
        (3, "uint8", {"extratags": [(274, "H", 1, 6, True)]}),  # to be turned
        (3, "uint8", {"extratags": [(42113, "s", 2, "0", True)]}),  # nodata
        (1, "uint8", {"photometric": "miniswhite"}),
        (4, "uint8", {"extrasamples": ["assocalpha"]}),
        (4, "uint8", {"photometric": "separated", "extrasamples": None}),
        (1, "uint8", {"extratags": [(340, "B", 1, 3, True), (341, "B", 1, 90, True)]}),
    ],
    ids=str,
)
def test_other_kinds_are_left_to_libvips(tmp_path: Path, bands: int, dtype: str, options: dict[str, Any]) -> None:
    path = tiled_tiff(tmp_path / "a.tif", picture(100, 120, bands, dtype), **options)
    assert isinstance(VipsSource(path)._reader, WindowReader)


def test_strips_and_what_was_chosen_are_left_to_libvips(tmp_path: Path) -> None:
    pixels = picture(100, 120, 3)
    tifffile.imwrite(tmp_path / "strips.tif", pixels, photometric="rgb")
    assert isinstance(VipsSource(tmp_path / "strips.tif")._reader, WindowReader)
    path = tiled_tiff(tmp_path / "a.tif", pixels)
    assert isinstance(VipsSource(path, Choice(channels=(2, 1, 0)))._reader, WindowReader)
    assert isinstance(VipsSource(path)._reader, TileReader)


def test_of_a_pyramid_the_full_size_is_read_so_and_a_level_that_was_chosen_is_not(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", picture(600, 700, 3)
    pyvips.Image.new_from_array(pixels).tiffsave(str(path), tile=True, pyramid=True, compression="deflate")
    source = VipsSource(path)
    assert isinstance(source._reader, TileReader)
    assert source.cache_bytes(700) == source._windows.cache_bytes(700)  # of levels, for the thumbnail
    np.testing.assert_array_equal(source.read(Window(0, 0, 700, 600)), pixels)
    assert isinstance(VipsSource(path, Choice(level=1))._reader, WindowReader)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_damaged_tile_is_said_in_libvips_words_and_the_others_are_read(
    tmp_path: Path, compression: str | None
) -> None:
    pixels = picture(192, 192, 3)
    path = tiled_tiff(tmp_path / "a.tif", pixels, compression=compression)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tag, offset, count = page.tags["TileByteCounts"], page.dataoffsets[4], page.databytecounts[4]
    data = bytearray(path.read_bytes())
    if compression is None:
        at, size = tag.valueoffset + 4 * {3: 2, 4: 4}[int(tag.dtype)], {3: 2, 4: 4}[int(tag.dtype)]
        data[at : at + size] = (100).to_bytes(size, "little")
    else:
        data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    source = VipsSource(path)
    np.testing.assert_array_equal(source.read(Window(0, 0, 192, 64)), pixels[:64])
    with pytest.raises(SourceError, match="cannot read columns 60–69, rows 60–69 of"):  # noqa: RUF001
        source.read(Window(60, 60, 10, 10))
    np.testing.assert_array_equal(source.read(Window(0, 128, 192, 64)), pixels[128:])


def test_a_tile_that_claims_to_be_huge_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiled_tiff(tmp_path / "a.tif", picture(64, 64, 3), compression="zlib")
    source = VipsSource(path)
    reader = source._reader
    assert isinstance(reader, TileReader)
    monkeypatch.setattr(reader._file, "read", None)
    with pytest.raises(ValueError, match="so large"):
        reader._decoded(0, 3 << 20)


def test_a_window_outside_is_refused(tmp_path: Path) -> None:
    source = VipsSource(tiled_tiff(tmp_path / "a.tif", picture(64, 64, 3)))
    with pytest.raises(InputError, match="reaches outside"):
        source.read(Window(60, 0, 10, 10))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_tile_of_a_window_is_read_twice_and_the_directory_never_whole(tmp_path: Path) -> None:
    path, pixels = tmp_path / "in.tif", np.random.default_rng(0).integers(0, 256, (2048, 1024, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", bigtiff=True)
    source = VipsSource(path)
    tile, directory = 32 * 32 * 3, 16 * 32 * 64

    def read(window: Window) -> int:
        before, _ = process_bytes()
        np.testing.assert_array_equal(source.read(window), cut(pixels, window))
        return process_bytes()[0] - before

    read(Window(0, 0, 1, 1))
    assert read(Window(1000, 700, 20, 2)) < 2 * tile + directory // 4
    assert read(Window(0, 0, 1024, 2048)) < 1.1 * path.stat().st_size


def test_it_pickles_small_and_threads_agree(tmp_path: Path) -> None:
    pixels = picture(500, 400, 3)
    source = pickle.loads(pickle.dumps(VipsSource(tiled_tiff(tmp_path / "a.tif", pixels, compression="zlib"))))
    assert isinstance(source._reader, TileReader)
    wrong = list[Window]()

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            window = Window(int(random.integers(300)), int(random.integers(400)), 100, 100)
            if not np.array_equal(source.read(window), cut(pixels, window)):
                wrong.append(window)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

"""TIFFs with tiles that were never written, as GDAL makes them (SPARSE_OK), against GDAL's own reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sources_support import picture, windows
from urst_tiles import load_network, stylize
from urst_tiles.geometry import Window
from urst_tiles.sources import open_source
from urst_tiles.sources.tiff import TiffSource
from urst_tiles.sources.vips import VipsSource

rasterio = pytest.importorskip("rasterio")
HEIGHT, WIDTH = 300, 200


def sparse(path: Path, dtype: str = "uint8", *, levels: int = 0, **options: Any) -> NDArray[Any]:
    """Of a grid of 64 px one place in three is written, of strips one row in three; what GDAL reads of it,
    (height, width, bands)."""
    from rasterio.windows import Window as Place

    pixels = picture(HEIGHT, WIDTH, 3).astype(dtype)
    facts = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": dtype, "photometric": "rgb"}
    with rasterio.open(path, "w", **{**facts, "interleave": "pixel", "sparse_ok": True, **options}) as file:
        for row, col in [(row, col) for row in range(0, HEIGHT, 64) for col in range(0, WIDTH, 64)]:
            if (row // 64 + (col // 64 if "tiled" in options else 0)) % 3 == 0:
                part = pixels[row : row + 64, col : col + 64]
                file.write(part.transpose(2, 0, 1), window=Place(col, row, part.shape[1], part.shape[0]))
    if levels:
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2**level for level in range(1, levels + 1)])
    with rasterio.open(path) as file:
        return np.ascontiguousarray(file.read().transpose(1, 2, 0))


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_tiles_that_were_never_written_are_black(
    tmp_path: Path, compression: str, tiled: bool, interleave: str
) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {"blockysize": 16}
    expected = sparse(tmp_path / "a.tif", compress=compression, interleave=interleave, **layout)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, TiffSource)
    for window in windows(WIDTH, HEIGHT, 12):
        np.testing.assert_array_equal(source.read(window), expected[window.slices])


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 7), ("uint16", 60000), ("float32", -9999), ("float32", np.nan)]
)
def test_where_there_is_nodata_they_are_transparent(tmp_path: Path, dtype: str, nodata: float) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": nodata}
    stored = sparse(tmp_path / "a.tif", dtype, **layout)
    source = open_source(tmp_path / "a.tif", range=(0, 255) if dtype == "float32" else None)
    assert isinstance(source, TiffSource)
    found = source.read(Window(0, 0, WIDTH, HEIGHT))
    hidden = np.all(np.isnan(stored) if np.isnan(nodata) else stored == nodata, axis=2)
    assert 0.6 < hidden.mean() < 0.7
    np.testing.assert_array_equal(found[..., 3] == 0, hidden)


def test_levels_have_holes_too(tmp_path: Path) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    sparse(tmp_path / "a.tif", levels=2, **layout)
    for level in (1, 2):
        with rasterio.open(tmp_path / "a.tif", overview_level=level - 1) as file:
            expected = file.read().transpose(1, 2, 0)
        source = open_source(tmp_path / "a.tif", level=level)
        np.testing.assert_array_equal(source.read(Window(0, 0, source.info.width, source.info.height)), expected)


def test_without_holes_it_stays_with_libvips(tmp_path: Path) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": False}
    expected = sparse(tmp_path / "a.tif", **layout)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, VipsSource)
    np.testing.assert_array_equal(source.read(Window(0, 0, WIDTH, HEIGHT)), expected)


def test_a_whole_run_gives_every_pixel_back(tmp_path: Path) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "lzw"}
    expected = sparse(tmp_path / "a.tif", **layout)
    stylize(tmp_path / "a.tif", tmp_path / "b.tif", network=load_network("identity"))
    with rasterio.open(tmp_path / "b.tif") as file:
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), expected)

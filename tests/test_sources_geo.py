"""Where a raster lies on the Earth, with GDAL as the witness."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.sources_support import SHARED, picture
from urst_tiles.sources import open_source
from urst_tiles.sources.geo import GeoTags

rasterio = pytest.importorskip("rasterio")


def write(path: Path, geo: GeoTags, width: int, height: int) -> Path:
    extra: Any = [(code, kind, count, value, True) for code, kind, count, value in geo.tags()]
    tifffile.imwrite(path, np.zeros((height, width), np.uint8), tile=(16, 16), extratags=extra, metadata=None)
    return path


def place(path: Path, col: float, row: float) -> tuple[float, float]:
    """Where GDAL puts the corner of a pixel."""
    with rasterio.open(path) as raster:
        x, y = raster.transform * (col, row)
        return float(x), float(y)


def gdal_tiff(path: Path, *, rotated: bool = False, point: bool = False, tile: int = 32) -> Path:
    transform = rasterio.Affine(2.5, 0.5 if rotated else 0, 4_000_100, 0.25 if rotated else 0, -2.5, 2_900_000)
    options: dict[str, Any] = {"AREA_OR_POINT": "Point"} if point else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=120, height=80, count=3, dtype="uint8", crs="EPSG:3035", transform=transform,
        tiled=True, blockxsize=tile, blockysize=tile, photometric="rgb", interleave="pixel",
    ) as raster:  # fmt: skip
        raster.update_tags(**options)
        raster.write(picture(80, 120, 3).transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_a_part_and_a_level_lie_where_they_lay(tmp_path: Path, rotated: bool, point: bool) -> None:
    path = gdal_tiff(tmp_path / "a.tif", rotated=rotated, point=point)
    geo = open_source(path).info.geo
    assert geo is not None
    same = write(tmp_path / "same.tif", geo, 120, 80)
    part = write(tmp_path / "part.tif", geo.of_region(30, 20), 50, 40)
    half = write(tmp_path / "half.tif", geo.of_level(2, 4), 60, 20)
    with rasterio.open(path) as raster, rasterio.open(same) as again:
        assert again.crs == raster.crs
    for col, row in ((0, 0), (7, 3), (50, 40)):
        assert place(same, col, row) == pytest.approx(place(path, col, row), abs=1e-6)
        assert place(part, col, row) == pytest.approx(place(path, col + 30, row + 20), abs=1e-6)
        assert place(half, col, row) == pytest.approx(place(path, col * 2, row * 4), abs=1e-6)


def test_it_travels_as_json_and_pickled(tmp_path: Path) -> None:
    geo = open_source(gdal_tiff(tmp_path / "a.tif")).info.geo
    assert geo is not None
    assert GeoTags.from_json(json.loads(json.dumps(geo.to_json()))) == geo
    assert pickle.loads(pickle.dumps(geo)) == geo


@pytest.mark.parametrize(
    "document",
    [{}, {"keys": [1, 1, 0]}, {"keys": [1, 1, 0, 0], "pixel_scale": [1]}, {"keys": [1, 1, 0, 70000]},
     {"keys": [1, 1, 0, 0], "doubles": ["x"]}, {"keys": [1, 1, 0, 0], "tie_points": [float("nan")] * 6}],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        GeoTags.from_json(document)


def test_senseless_tags_are_left_out(tmp_path: Path) -> None:
    extra: Any = [(34735, "H", 3, (1, 1, 0), True), (33550, "d", 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", picture(40, 50, 3), tile=(16, 16), photometric="rgb", extratags=extra)
    assert open_source(tmp_path / "a.tif").info.geo is None


@pytest.mark.parametrize("name", ["riotiler_cog_cmap.tif", "riotiler_cog_int16.tif"])
def test_levels_of_real_rasters_lie_where_gdal_says(tmp_path: Path, name: str) -> None:
    path = SHARED / "images" / "formats" / name
    if not path.is_file():
        pytest.skip(f"the reference images are not there ({path})")
    info = open_source(path, level=1, range=(0, 9000) if "int16" in name else None).info
    assert info.geo is not None
    level = write(tmp_path / "a.tif", info.geo, info.width, info.height)
    with rasterio.open(path, overview_level=0) as wanted, rasterio.open(level) as found:
        assert (found.width, found.height) == (wanted.width, wanted.height)
        assert found.crs == wanted.crs
        assert tuple(found.transform) == pytest.approx(tuple(wanted.transform))


def test_an_upright_raster_keeps_its_place_and_a_turned_one_says_that_it_does_not(tmp_path: Path) -> None:
    geo = open_source(gdal_tiff(tmp_path / "a.tif")).info.geo
    assert geo is not None
    extra: Any = [(code, kind, count, value, True) for code, kind, count, value in geo.tags()]
    turned: Any = [*extra, (274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "b.tif", picture(40, 50, 3), tile=(16, 16), photometric="rgb", extratags=turned)
    info = open_source(tmp_path / "b.tif").info
    assert info.geo is None
    assert any("place on the Earth" in note for note in info.notes)

"""COG as GDAL, its validator, tifffile and libvips read it; OME-TIFF as tifffile reads it."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores_support import finished_store, halved, layout_for
from urst_tiles.exporting import export
from urst_tiles.geometry import Window
from urst_tiles.stores import OmeZarrStore, StoreLayout
from urst_tiles.stores.exporter import Compression

rasterio = pytest.importorskip("rasterio")
cogeo = pytest.importorskip("rio_cogeo")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


def level_pixels(store: OmeZarrStore, level: int) -> Any:
    return store.read(level, Window(0, 0, *store.levels[level])).transpose(1, 2, 0)


@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    bands=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    compression=st.sampled_from(["deflate", "zstd", "lzw", "none"]),
    tile=st.sampled_from([16, 48, 512]),
    memory=st.sampled_from([1, 20_000, 10**9]),
)
def test_a_cog_is_valid_and_exact(
    width: int,
    height: int,
    bands: Literal[3, 4],
    dtype: Literal["uint8", "uint16"],
    compression: Compression,
    tile: int,
    memory: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, pixels = finished_store(Path(folder) / "a.zarr", layout_for(width, height, bands, dtype, chunk=40))
        path = Path(folder) / "a.cog.tif"
        export(store, path, compression=compression, tile=tile, memory=memory)
        if min(width, height) > 16:  # the factor of a strip's level is not recognised
            assert cogeo.cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as read:
            assert read.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            np.testing.assert_array_equal(read.read(), pixels)
        with tifffile.TiffFile(path) as tiff:
            pages: list[Any] = list(tiff.pages)
            assert [page.subfiletype for page in pages] == [0] + [1] * (len(pages) - 1)
            assert max(pages[-1].shape[:2]) <= max(tile, 1)
            expected = pixels.transpose(1, 2, 0)
            for level, page in enumerate(pages):
                expected = level_pixels(store, level) if level < len(store.levels) else halve_again(expected)
                np.testing.assert_array_equal(page.asarray(), expected)


def halve_again(pixels: Any) -> Any:
    return halved(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)


def test_a_cogs_directories_come_first_and_its_smallest_level_next(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(300, 200))
    export(store, tmp_path / "a.cog.tif", tile=32)
    with tifffile.TiffFile(tmp_path / "a.cog.tif") as tiff:
        pages: list[Any] = list(tiff.pages)
        directories = [page.offset for page in pages]
        offsets = [page.dataoffsets for page in pages]
    assert len(pages) == 6
    assert directories == sorted(directories)
    assert directories[-1] < min(map(min, offsets))
    assert [number for level in reversed(offsets) for number in level] == sorted(sum(offsets, ()))


@pytest.mark.parametrize("bands", [3, 4])
def test_what_a_cog_says(tmp_path: Path, bands: Literal[3, 4]) -> None:
    profile = bytes(range(256)) * 3 + b"odd"
    layout = layout_for(100, 60, bands, "uint16", icc_profile=profile, resolution=(11.811, 23.6))
    store, _ = finished_store(tmp_path / "a.zarr", layout)
    export(store, tmp_path / "a.tif", kind="cog", tile=32)
    image = pyvips.Image.new_from_file(str(tmp_path / "a.tif"))
    assert image.get("icc-profile-data") == profile
    assert (image.xres, image.yres) == pytest.approx(layout.resolution, rel=1e-6)
    assert image.hasalpha() == (bands == 4)
    half = pyvips.Image.new_from_file(str(tmp_path / "a.tif"), page=1)
    np.testing.assert_array_equal(half.numpy(), level_pixels(store, 1))
    with rasterio.open(tmp_path / "a.tif") as read:
        assert read.colorinterp[-1] == rasterio.enums.ColorInterp.alpha if bands == 4 else read.count == 3
        assert "TIFFTAG_DATETIME" not in read.tags()


def test_a_cog_makes_nothing_up(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(40, 30))
    export(store, tmp_path / "a.cog.tif")
    with rasterio.open(tmp_path / "a.cog.tif") as read:
        assert not {name for name in read.tags() if "RESOLUTION" in name}


def test_ome_tiff_describes_the_picture(tmp_path: Path) -> None:
    layout = layout_for(100, 60, 4, "uint16", resolution=(10.0, 12.5), name="a picture & more")
    store, pixels = finished_store(tmp_path / "a.zarr", layout)
    export(store, tmp_path / "a.ome.tif", tile=32)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert tiff.is_ome
        assert tiff.is_bigtiff
        series = tiff.series[0]
        assert series.axes == "YXS"
        assert [level.shape for level in series.levels] == [(h, w, 4) for w, h in store.levels]
        np.testing.assert_array_equal(series.asarray(), pixels.transpose(1, 2, 0))
        for level in range(1, len(store.levels)):
            np.testing.assert_array_equal(series.levels[level].asarray(), level_pixels(store, level))
        described = ET.fromstring(tiff.ome_metadata or "")
    image = described.find(f"{_OME}Image")
    assert image is not None
    assert image.attrib["Name"] == layout.name
    said = image.find(f"{_OME}Pixels")
    assert said is not None
    assert {name: said.attrib[name] for name in ("SizeX", "SizeY", "SizeC", "Type", "Interleaved")} == {
        "SizeX": "100",
        "SizeY": "60",
        "SizeC": "4",
        "Type": "uint16",
        "Interleaved": "true",
    }
    # 10 and 12.5 pixels per millimetre
    assert [float(said.attrib[f"PhysicalSize{axis}"]) for axis in "XY"] == [100.0, 80.0]
    assert {said.attrib[f"PhysicalSize{axis}Unit"] for axis in "XY"} == {"µm"}
    channels = said.findall(f"{_OME}Channel")
    assert [channel.attrib["SamplesPerPixel"] for channel in channels] == ["4"]


def test_ome_tiff_makes_no_pixel_size_up(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(40, 30))
    export(store, tmp_path / "a.ome.tiff")
    assert "PhysicalSize" not in (tifffile.TiffFile(tmp_path / "a.ome.tiff").ome_metadata or "")


def test_two_pictures_have_two_uuids(tmp_path: Path) -> None:
    said = []
    for seed in (0, 1):
        store, _ = finished_store(tmp_path / f"{seed}.zarr", StoreLayout(40, 30, 3, "uint8", 16, (32, 32)), seed)
        export(store, tmp_path / f"{seed}.ome.tif")
        said.append(ET.fromstring(tifffile.TiffFile(tmp_path / f"{seed}.ome.tif").ome_metadata or "").attrib["UUID"])
    assert said[0] != said[1]

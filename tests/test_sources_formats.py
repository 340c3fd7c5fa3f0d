"""Every file of the reference collection opens with the right facts, or is refused in one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.sources_support import SHARED, one_line
from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import open_source

FORMATS = SHARED / "images" / "formats"

OPENS: dict[str, tuple[Any, ...]] = {
    # width, height, colour, alpha, dtype, random access
    "16bit.cropped.tif": (64, 64, "grey", False, "uint16", False),
    "4bit.tif": (256, 4, "grey", False, "uint8", False),
    "CMU-1-Small-Region.svs": (2220, 2967, "rgb", False, "uint8", True),
    "hopper.iccprofile.tif": (128, 128, "rgb", False, "uint8", False),
    "hopper.webp": (128, 128, "rgb", False, "uint8", False),
    "hopper_bigtiff.tif": (128, 128, "rgb", False, "uint8", False),
    "hopper_gray.jpg": (128, 128, "grey", False, "uint8", False),
    "indexed.png": (290, 442, "rgb", False, "uint8", False),
    "palette_sepia.png": (128, 128, "rgb", False, "uint8", False),
    "pil123rgba.png": (162, 150, "rgb", True, "uint8", False),
    "pil_sample_cmyk.jpg": (100, 100, "rgb", False, "uint8", False),
    "rgba.png": (128, 128, "rgb", True, "uint8", False),
    "riotiler_cog_cmap.tif": (7168, 8704, "rgb", False, "uint8", True),
    "sample.jpg": (290, 442, "rgb", False, "uint8", False),
    "sample.png": (290, 442, "rgb", False, "uint16", False),
    "sample.tif": (290, 442, "rgb", False, "uint16", False),
    "tiff_16bit_RGB.tiff": (100, 40, "rgb", False, "uint16", True),
    "tiff_16bit_RGBa.tiff": (100, 40, "rgb", True, "uint16", False),
    "tiff_adobe_deflate.tif": (278, 374, "rgb", False, "uint8", False),
    "tiff_tiled_cmyk_jpeg.tif": (100, 100, "rgb", False, "uint8", True),
    "tiff_tiled_planar_16bit_RGB.tiff": (100, 40, "rgb", False, "uint16", True),
    "tiff_tiled_planar_lzw.tiff": (278, 374, "rgb", False, "uint8", True),
    "tiff_tiled_ycbcr_jpeg_2x2_sampling.tif": (480, 360, "rgb", False, "uint8", True),
}
REFUSED = {
    "riotiler_cog_int16.tif": r"int16 pixels.*--range",
}
BY_BUILD = {"17000x17000.avif", "hopper_16bit.pgm", "sample.exr", "test-card-lossy-tiled.jp2", "world.jp2"}
"""libvips can be built with or without what reads these."""
ORACLES = {"tif": "tifffile", "png": "Pillow"}


def _files() -> list[Path]:
    return sorted(FORMATS.iterdir()) if FORMATS.is_dir() else []


def test_the_collection_is_there() -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"the reference images are not there ({FORMATS})")
    assert {file.name for file in _files()} == set(OPENS) | set(REFUSED) | BY_BUILD


@pytest.mark.parametrize("file", _files(), ids=lambda file: file.name)
def test_facts(file: Path) -> None:
    if file.name in REFUSED:
        with pytest.raises(SourceError, match=REFUSED[file.name]) as caught:
            open_source(file)
        assert one_line(str(caught.value))
        return
    try:
        source = open_source(file)
        info = source.info
        corner = source.read(Window(0, 0, min(info.width, 50), min(info.height, 50)))
    except SourceError as error:
        assert file.name in BY_BUILD, error  # noqa: PT017
        assert one_line(str(error))  # noqa: PT017
        assert str(file) in str(error)  # noqa: PT017
        return
    assert corner.shape == (min(info.height, 50), min(info.width, 50), info.bands)
    if file.name in OPENS:
        facts = (info.width, info.height, info.colour, info.alpha, info.dtype, info.random_access)
        assert facts == OPENS[file.name]


@pytest.mark.parametrize(
    "name",
    ["16bit.cropped.tif", "hopper_bigtiff.tif", "sample.tif", "tiff_16bit_RGB.tiff", "tiff_adobe_deflate.tif"],
)
def test_pixels_are_those_of_tifffile(name: str) -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"the reference images are not there ({FORMATS})")
    expected = tifffile.imread(FORMATS / name)
    source = open_source(FORMATS / name)
    read = source.read(Window(0, 0, source.info.width, source.info.height))
    np.testing.assert_array_equal(read, expected.reshape(read.shape))


@pytest.mark.parametrize("name", ["rgba.png", "pil123rgba.png", "indexed.png", "palette_sepia.png", "sample.jpg"])
def test_pixels_are_those_of_pillow(name: str) -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"the reference images are not there ({FORMATS})")
    source = open_source(FORMATS / name)
    image = Image.open(FORMATS / name)
    expected = np.asarray(image.convert("RGBA" if source.info.alpha else "RGB"))
    read = source.read(Window(0, 0, source.info.width, source.info.height))
    tolerance = 4 if name.endswith("jpg") else 0  # two builds of libjpeg round differently
    assert np.abs(read.astype(int) - expected).max() <= tolerance
    assert source.info.icc_profile == image.info.get("icc_profile")


def test_a_slide_states_its_resolution() -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"the reference images are not there ({FORMATS})")
    info = open_source(FORMATS / "CMU-1-Small-Region.svs").info
    assert info.resolution == pytest.approx((1000 / 0.499, 1000 / 0.499))
    assert info.tile == (240, 240)


def test_a_window_of_a_large_raster_is_that_of_tifffile() -> None:
    path = SHARED / "images" / "large" / "orion_18000x18000_gray.btf.tif"
    if not path.is_file():
        pytest.skip(f"the reference images are not there ({path})")
    source = open_source(path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        index = 20 * 36 + 17  # the tile in row 20, column 17 of 36 columns
        decode, tables = page.decode, page.jpegtables  # these move in the file: first
        tif.filehandle.seek(page.dataoffsets[index])
        tile: Any = decode(tif.filehandle.read(page.databytecounts[index]), index, jpegtables=tables)[0]
    read = source.read(Window(17 * 512, 20 * 512, 512, 512))
    assert tile.shape == (1, 512, 512, 1)
    assert np.abs(read.astype(int) - tile[0].astype(int)).max() <= 1

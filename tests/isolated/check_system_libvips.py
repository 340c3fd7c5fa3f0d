"""Formats that pip's libvips is built without, read by the system's libvips where there is one: slides, OpenEXR and
JPEG 2000. (Debian: libvips42.)"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

# pip's libvips comes as this module; without it pyvips takes the system's.
sys.modules["_libvips"] = None  # type: ignore[assignment]
try:
    import pyvips
except (ImportError, OSError):
    pytest.skip("there is no libvips on this system", allow_module_level=True)

from tests.sources_support import SHARED, picture  # noqa: E402
from urst_tiles import load_network, open_source, stylize  # noqa: E402
from urst_tiles.errors import SourceError  # noqa: E402
from urst_tiles.geometry import Window  # noqa: E402

FORMATS = SHARED / "images" / "formats"
TILE = 256
MICRONS = 0.25


def needs(loader: str) -> None:
    if pyvips.type_find("VipsOperation", loader) == 0:
        pytest.skip(f"the system's libvips has no {loader}")


def whole(source: Any) -> NDArray[Any]:
    pixels: NDArray[Any] = source.read(Window(0, 0, source.info.width, source.info.height))
    return pixels


def through(path: Path, folder: Path, **options: Any) -> NDArray[Any]:
    stylize(path, folder / "out.tif", network=load_network("identity"), **options)
    pixels: NDArray[Any] = tifffile.imread(folder / "out.tif")
    return pixels


@pytest.fixture
def slide(tmp_path: Path) -> tuple[Path, NDArray[Any], NDArray[Any]]:
    """As Aperio's scanners write them: the full size, a thumbnail in strips, a smaller level."""
    full = picture(1000, 1300, 3)
    half = full.reshape(500, 2, 650, 2, 3).mean((1, 3)).round().astype(np.uint8)

    def told(pixels: NDArray[Any]) -> str:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        return f"Aperio Image Library v11.2.1\r\n1300x1000 [0,0 {size}] ({TILE}x{TILE}) |AppMag = 40|MPP = {MICRONS}"

    common: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        tif.write(full, tile=(TILE, TILE), description=told(full), **common)
        tif.write(full[::8, ::8], rowsperstrip=16, description=told(full[::8, ::8]), **common)
        tif.write(half, tile=(TILE, TILE), description=told(half), **common)
    return tmp_path / "a.svs", full, half


def test_a_slide_is_read_by_windows_at_any_level(slide: tuple[Path, NDArray[Any], NDArray[Any]]) -> None:
    needs("openslideload")
    path, full, half = slide
    source = open_source(path)
    assert (source.info.format, source.info.levels) == ("openslide", ((650, 500),))
    assert source.info.random_access
    assert source.info.tile == (TILE, TILE)
    assert source.info.resolution == pytest.approx((1000 / MICRONS,) * 2)
    found = source.read(Window(200, 300, 500, 400))
    np.testing.assert_array_equal(found[..., :3], full[300:700, 200:700])
    smaller = open_source(path, level=1)
    assert smaller.info.resolution == pytest.approx((500 / MICRONS,) * 2)
    np.testing.assert_array_equal(whole(smaller)[..., :3], half)
    with pytest.raises(SourceError, match="level"):
        open_source(path, level=2)


def test_a_slide_goes_through_a_run(slide: tuple[Path, NDArray[Any], NDArray[Any]], tmp_path: Path) -> None:
    needs("openslideload")
    path, full, _ = slide
    found = through(path, tmp_path, window=256)
    np.testing.assert_array_equal(found[..., :3], full)
    assert (found[..., 3:] == 255).all()


@pytest.mark.skipif(not FORMATS.is_dir(), reason="the reference images are not there")
def test_a_published_slide_is_what_it_is_as_a_tiff() -> None:
    needs("openslideload")
    path = FORMATS / "CMU-1-Small-Region.svs"
    source = open_source(path)
    assert source.info.format == "openslide"
    found = source.read(Window(700, 900, 300, 200))[..., :3].astype(int)
    as_tiff = pyvips.Image.tiffload(str(path)).crop(700, 900, 300, 200).numpy()
    assert np.abs(found - as_tiff).max() <= 2  # two decoders of JPEG


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_lossless_jpeg_2000_gives_every_byte_back(tmp_path: Path, dtype: str, bands: int) -> None:
    needs("jp2ksave")
    pixels = picture(300, 400, bands, dtype)
    space = ("grey16", "rgb16") if dtype == "uint16" else ("b-w", "srgb")
    image = pyvips.Image.new_from_array(pixels).copy(interpretation=space[bands == 3])
    image.jp2ksave(str(tmp_path / "a.jp2"), lossless=True, tile_width=128, tile_height=128)
    source = open_source(tmp_path / "a.jp2")
    assert source.info.random_access
    np.testing.assert_array_equal(whole(source), pixels)
    np.testing.assert_array_equal(through(tmp_path / "a.jp2", tmp_path, window=128), np.repeat(pixels, 3 // bands, 2))


@pytest.mark.skipif(not FORMATS.is_dir(), reason="the reference images are not there")
@pytest.mark.parametrize("name", ["test-card-lossy-tiled.jp2", "world.jp2"])
def test_published_jpeg_2000_files_go_through(name: str, tmp_path: Path) -> None:
    needs("jp2kload")
    source = open_source(FORMATS / name)
    part = Window(0, 0, min(300, source.info.width), min(200, source.info.height))
    found, wanted = through(FORMATS / name, tmp_path, region=part), source.read(part)
    np.testing.assert_array_equal(found, np.repeat(wanted, 3 // wanted.shape[2], axis=2))
    assert wanted.std() > 1  # a picture


@pytest.mark.skipif(not FORMATS.is_dir(), reason="the reference images are not there")
def test_openexr_holds_linear_light(tmp_path: Path) -> None:
    needs("openexrload")
    path = FORMATS / "sample.exr"
    with pytest.raises(SourceError, match="--range"):
        open_source(path)
    values = pyvips.Image.new_from_file(str(path)).numpy().astype(np.float64)
    unit = values[..., :3].clip(0, 1)
    curve = np.where(unit <= 0.0031308, unit * 12.92, 1.055 * unit ** (1 / 2.4) - 0.055)
    found = through(path, tmp_path, range=(0, 1))
    assert found.dtype == np.uint16
    # Rounded before the curve and after it.
    assert np.abs(found[..., :3] / 65535 - curve).max() < 2e-4


def test_the_tiles_of_a_tiff_are_known_to_every_version(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 128))
    source = open_source(tmp_path / "a.tif")
    assert source.info.tile == (128, 64)
    np.testing.assert_array_equal(whole(source), pixels)

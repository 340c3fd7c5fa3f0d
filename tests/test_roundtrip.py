"""What goes in comes out: every kind of file through a whole run with a network that changes nothing, to a BigTIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.sources_support import SHARED, picture
from urst_tiles import load_network, stylize
from urst_tiles.errors import SourceError, UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.sources import open_source

FORMATS = SHARED / "images" / "formats"
RANGES = {"riotiler_cog_int16.tif": (0, 5000), "sample.exr": (0, 1)}
LARGEST = 300
"""Of larger rasters a part of this side goes through."""


def files() -> list[Path]:
    return sorted(FORMATS.iterdir()) if FORMATS.is_dir() else []


def through(path: Any, folder: Path, **options: Any) -> NDArray[Any]:
    """(height, width, bands) of the result."""
    stylize(path, folder / "out.tif", network=load_network("identity"), **options)
    pixels: NDArray[Any] = tifffile.imread(folder / "out.tif")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def upright(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey three times: what a network makes has three bands."""
    bands = pixels.shape[2]
    return pixels if bands > 2 else np.concatenate([np.repeat(pixels[..., :1], 3, axis=-1), pixels[..., 1:]], axis=-1)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_every_reference_file(path: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"range": RANGES[path.name]} if path.name in RANGES else {}
    try:
        source = open_source(path, **options)
    except SourceError as error:
        pytest.skip(f"libvips is built without what reads it: {error}")
    info = source.info
    if info.pixels > 100_000_000:
        pytest.skip("too large for a test")
    region = Window(info.width // 3 if info.width > 600 else 0, 0, min(info.width, LARGEST), min(info.height, LARGEST))
    found = through(path, tmp_path, region=region, **options)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        tags = tif.pages.first.tags
        assert tif.pages.first.dtype == info.dtype
        assert tags.valueof("Orientation", 1) == 1
        assert (len(tif.pages.first.extrasamples) == 1) == info.alpha
        if info.resolution is not None:
            factor = 25.4 if tags.valueof("ResolutionUnit") == 2 else 10
            for name, per_mm in zip(("XResolution", "YResolution"), info.resolution, strict=True):
                top, bottom = tags.valueof(name)
                assert top / bottom == pytest.approx(per_mm * factor, rel=1e-4)
        if info.icc_profile is not None and info.colour == "rgb":
            assert tags.valueof("InterColorProfile") == info.icc_profile
    if info.random_access or info.pixels < 50_000_000:
        np.testing.assert_array_equal(found, upright(source.read(region)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    pixels = picture(40, 60, 3)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        from PIL import ImageOps

        wanted = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(through(tmp_path / "a.png", tmp_path), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["zstd", "lzw", "planar", "png", "zarr"])
def test_lossless_files_give_every_byte_back(tmp_path: Path, kind: str, bands: int, dtype: str) -> None:
    pixels = picture(70, 90, bands, dtype)
    path = tmp_path / f"a.{'png' if kind == 'png' else 'zarr' if kind == 'zarr' else 'tif'}"
    deep = dtype == "uint16"
    if kind == "png":
        space = ("grey16" if deep else "b-w") if bands < 3 else ("rgb16" if deep else "srgb")
        pyvips.Image.new_from_array(pixels).copy(interpretation=space).pngsave(str(path))
    elif kind == "zarr":
        if bands == 2:
            pytest.skip("of two channels nothing says what the second is")
        import zarr

        zarr.create_array(path, data=pixels, chunks=(32, 32, bands))
    else:
        options: dict[str, Any] = {"photometric": "rgb" if bands > 2 else "minisblack", "tile": (32, 32)}
        if bands in (2, 4):
            options["extrasamples"] = ["unassalpha"]
        values = pixels
        if kind == "planar":
            options["planarconfig"], values = "separate", pixels.transpose(2, 0, 1)
        else:
            options |= {"planarconfig": "contig", "compression": kind}
        tifffile.imwrite(path, values if bands > 1 else pixels[..., 0], **options)
    np.testing.assert_array_equal(through(path, tmp_path), upright(pixels))


def test_a_run_goes_on_only_with_the_same_choice(tmp_path: Path) -> None:
    values = picture(200, 300, 3, "uint16").astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", tile=(32, 32))
    network: Any = load_network("identity")
    asked: dict[str, Any] = {"window": 64, "network": network}
    target = tmp_path / "out.tif"

    stops = iter([False] * 3)
    with pytest.raises(UrstTilesError):
        stylize(tmp_path / "a.tif", target, range=(0, 65535), stop=lambda: next(stops, True), **asked)
    if not (tmp_path / "out.tif.partial.zarr").exists():
        pytest.skip("it was stopped before it began")
    with pytest.raises(UrstTilesError) as caught:
        stylize(tmp_path / "a.tif", target, range=(0, 30000), **asked)
    assert "overwrite" in str(caught.value)
    stylize(tmp_path / "a.tif", target, range=(0, 65535), **asked)
    np.testing.assert_array_equal(tifffile.imread(target)[..., :3], np.rint(values))

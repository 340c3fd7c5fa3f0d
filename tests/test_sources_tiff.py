"""TIFFs that libvips does not read, against tifffile's own reading of the whole file."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.sources_support import SHARED, assert_mean_of_areas, one_line, picture, windows
from urst_tiles import load_network, stylize
from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.tiff import TiffSource
from urst_tiles.sources.vips import VipsSource

FORMATS = SHARED / "images" / "formats"


def whole(source: Source) -> NDArray[Any]:
    return source.read(Window(0, 0, source.info.width, source.info.height))


@pytest.mark.parametrize("tile", [(16, 16), (32, 48), (64, 64)])
@pytest.mark.parametrize("compression", ["none", "lzw", "zstd"])
def test_any_window_of_bands_stored_apart(tmp_path: Path, tile: tuple[int, int], compression: str) -> None:
    pixels = picture(90, 130, 3, "uint16")
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
        tile=tile,
        compression=compression,
        predictor=compression != "none",
        resolution=(300, 300),
        iccprofile=b"no real one",
    )
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, TiffSource)
    assert source.info.tile == tile[::-1]
    assert source.info.icc_profile == b"no real one"
    assert source.info.resolution == pytest.approx((300 / 25.4, 300 / 25.4))
    asked = windows(130, 90, 12)
    with ThreadPoolExecutor(4) as pool:
        for window, found in zip(asked, pool.map(source.read, asked), strict=True):
            np.testing.assert_array_equal(found, pixels[window.slices])
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(source))), pixels)
    assert_mean_of_areas(source.thumbnail(20), pixels)


@pytest.mark.parametrize("name", ["tiff_tiled_planar_16bit_RGB.tiff", "tiff_tiled_planar_lzw.tiff"])
def test_real_files_with_bands_apart(name: str) -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"the reference images are not there ({FORMATS})")
    wanted = tifffile.imread(FORMATS / name)
    wanted = wanted if wanted.shape[-1] == 3 else wanted.transpose(1, 2, 0)
    np.testing.assert_array_equal(whole(open_source(FORMATS / name)), wanted)


def ome(path: Path, values: NDArray[Any], axes: str, **metadata: Any) -> Path:
    tifffile.imwrite(
        path, values, ome=True, photometric="minisblack", tile=(32, 32), metadata={"axes": axes, **metadata}
    )
    return path


def test_channels_that_are_pages(tmp_path: Path) -> None:
    pixels = picture(70, 90, 3)
    sizes: Any = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    source = open_source(ome(tmp_path / "rgb.ome.tif", pixels.transpose(2, 0, 1), "CYX", **sizes))
    np.testing.assert_array_equal(whole(source), pixels)
    assert source.info.resolution == pytest.approx((2000, 4000))
    five = picture(70, 90, 5, "uint16").transpose(2, 0, 1)
    path = ome(tmp_path / "five.ome.tif", five, "CYX", Channel={"Name": ["DAPI", "FITC", "Cy3", "Cy5", "Trans"]})
    with pytest.raises(SourceError, match=r"5 channels \(DAPI, FITC, Cy3, Cy5, Trans\).*--channels") as caught:
        open_source(path)
    assert one_line(str(caught.value))
    np.testing.assert_array_equal(whole(open_source(path, channels=(4, 0, 2))), five[[4, 0, 2]].transpose(1, 2, 0))
    np.testing.assert_array_equal(whole(open_source(path, channels=3))[..., 0], five[3])


def test_of_five_dimensions_the_first_place_is_read_and_that_is_said(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65535, (2, 4, 3, 40, 50), np.uint16)
    source = open_source(ome(tmp_path / "a.ome.tif", values, "TZCYX"))
    np.testing.assert_array_equal(whole(source), values[0, 0].transpose(1, 2, 0))
    said = " ".join(source.info.notes)
    assert "2 pictures along its axis t" in said
    assert "4 pictures along its axis z" in said


@pytest.mark.parametrize("kind", ["float64", "int64", "uint64"])
def test_numbers_of_64_bits(tmp_path: Path, kind: str) -> None:
    values = (picture(40, 50, 3, "uint8").astype(float) * 10).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", tile=(16, 16))
    with pytest.raises(SourceError, match=kind):
        open_source(tmp_path / "a.tif")
    found = whole(open_source(tmp_path / "a.tif", range=(0, 2550)))
    np.testing.assert_array_equal(found[..., :3], np.rint(values.astype(float) * (65535 / 2550)))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30, 20), (128, 128), (129, 20), (20, 600)])
@pytest.mark.parametrize("tile", [256, 512])
def test_pictures_much_smaller_than_their_tiles(tmp_path: Path, width: int, height: int, tile: int) -> None:
    pixels = picture(height, width, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(tile, tile), compression="deflate")
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, TiffSource if tile == 512 and width < 129 and height < 129 else VipsSource)
    np.testing.assert_array_equal(whole(source), pixels)


def test_the_last_level_of_a_pyramid_is_smaller_than_its_tiles(tmp_path: Path) -> None:
    levels = [picture(1000 >> level, 1200 >> level, 3) for level in range(5)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for level, pixels in enumerate(levels):
            tif.write(pixels, photometric="rgb", tile=(512, 512), subifds=0 if level else 4, subfiletype=level > 0)
    for level, pixels in enumerate(levels):
        source = open_source(tmp_path / "a.tif", level=level)
        assert isinstance(source, TiffSource if level == 4 else VipsSource)
        np.testing.assert_array_equal(whole(source), pixels)
    with pytest.raises(SourceError, match="has no level 5"):
        open_source(tmp_path / "a.tif", level=5)


def test_a_pyramid_with_bands_apart(tmp_path: Path) -> None:
    pixels = picture(200, 300, 3)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 32)}
        tif.write(pixels.transpose(2, 0, 1), subifds=1, metadata={"axes": "CYX"}, **options)
        tif.write(pixels[::2, ::2].transpose(2, 0, 1), subfiletype=1, **options)
    source = open_source(tmp_path / "a.ome.tif")
    assert source.info.levels == ((150, 100),)
    np.testing.assert_array_equal(whole(source), pixels)
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.ome.tif", level=1)), pixels[::2, ::2])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_tiff_behind_a_url(tmp_path: Path, planar: Any) -> None:
    pixels = picture(90, 130, 3)
    values = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", planarconfig=planar, tile=(32, 32), compression="deflate"
    )
    url = f"memory://{tmp_path.name}/a.tif"
    with fsspec.open(url, "wb") as file:
        file.write((tmp_path / "a.tif").read_bytes())
    source = open_source(url)
    assert source.name == url
    np.testing.assert_array_equal(whole(source), pixels)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(source))), pixels)
    before = source.fingerprint()
    with fsspec.open(url, "wb") as file:
        file.write((tmp_path / "a.tif").read_bytes()[:-100])
    assert open_source(url).fingerprint() != before
    with pytest.raises(SourceError, match=r"cannot read columns.*cut off"):
        whole(open_source(url))


def test_urls_that_are_no_raster_are_one_line() -> None:
    for url, says in (
        ("memory://nowhere/a.tif", "cannot open memory://nowhere/a.tif"),
        ("https://127.0.0.1:9/a.jpg", "Download it first"),
        ("nonsense://x/a.tif", "nonsense"),
    ):
        with pytest.raises(SourceError, match=says) as caught:
            open_source(url)
        assert one_line(str(caught.value))


def test_a_whole_run_gives_every_byte_back(tmp_path: Path) -> None:
    pixels = picture(90, 130, 3, "uint16")
    tifffile.imwrite(
        tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(32, 32)
    )
    stylize(tmp_path / "a.tif", tmp_path / "out.tif", network=load_network("identity"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pixels)


@pytest.mark.parametrize("damage", ["cut", "count", "offset"])
def test_damage_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, picture(64, 64, 3).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(32, 32)
    )
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with tifffile.TiffFile(path, mode="r+") as tif:
            tag = tif.pages.first.tags["TileByteCounts" if damage == "count" else "TileOffsets"]
            tag.overwrite([2**31] * tag.count, dtype="I")
    with pytest.raises(SourceError, match=r"cannot read columns.*a\.tif.*behind its end") as caught:
        whole(open_source(path))
    assert one_line(str(caught.value))


def test_what_is_read_by_libvips_stays_with_it(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(64, 64, 3), photometric="rgb", tile=(32, 32))
    assert isinstance(open_source(tmp_path / "a.tif"), VipsSource)

"""What can be asked for of a raster: level, channels, range and nodata. One rule, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray

from tests.sources_support import SHARED, one_line, peak_growth_of, picture, tiled_tiff
from urst_tiles.cli import main
from urst_tiles.errors import InputError, SourceError, UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.choice import Choice
from urst_tiles.sources.spool import spool


def whole(source: Source) -> NDArray[Any]:
    return source.read(Window(0, 0, source.info.width, source.info.height))


def numbers(kind: str, bands: int, seed: int = 0) -> NDArray[Any]:
    """(20, 30, bands) of a type, over much of what it holds; floats with NaN and infinities."""
    rng = np.random.default_rng(seed)
    if np.dtype(kind).kind != "f":
        limits = np.iinfo(kind)
        return rng.integers(limits.min, int(limits.max) + 1, (20, 30, bands), kind)
    values = rng.normal(0, 100, (20, 30, bands)).astype(kind)
    for odd in (np.nan, np.inf, -np.inf):
        values[rng.random(values.shape) < 0.05] = odd
    return values


def expected(values: NDArray[Any], low: float, high: float, nodata: float | None) -> NDArray[np.uint16]:
    """The rule in plain words, pixel by pixel."""
    made_alpha = values.dtype.kind == "f" or nodata is not None
    out = np.zeros((*values.shape[:2], values.shape[2] + made_alpha), np.uint16)
    for y, x in np.ndindex(*values.shape[:2]):
        pixel = [float(value) for value in values[y, x]]
        for band, value in enumerate(pixel):
            level = (value - low) * (65535 / (high - low))
            out[y, x, band] = 0 if np.isnan(value) else round(min(max(level, 0.0), 65535.0))
        if made_alpha:
            hidden = any(np.isnan(pixel)) or all(value == nodata for value in pixel)
            out[y, x, -1] = 0 if hidden else 65535
    return out


@pytest.mark.parametrize("limits", [(0, 1), (-300.25, 4000)], ids=str)
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "uint32", "float32"])
def test_a_range_means_the_same_to_every_reader(
    tmp_path: Path, kind: str, bands: int, limits: tuple[float, float]
) -> None:
    values = numbers(kind, bands)
    values[3:9, 4] = nodata = 77
    tiled_tiff(tmp_path / "a.tif", values, tile=16)
    for hide in (None, nodata):
        wanted = expected(values, *limits, hide)
        for place in (tmp_path / "a.tif", values):
            found = open_source(place, range=limits, nodata=hide)
            assert (found.info.dtype, found.info.bands) == ("uint16", wanted.shape[2])
            assert found.info.alpha == (wanted.shape[2] > bands)
            np.testing.assert_array_equal(whole(found), wanted)


@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_channels_are_picked_in_the_order_asked_for(tmp_path: Path, layout: str) -> None:
    values = picture(40, 50, 7, "uint16")
    path = tmp_path / "a.tif"
    tile: Any = {"tile": (16, 16)} if layout == "tiles" else {}
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", **tile)
    store = zarr.create_array(tmp_path / "a.zarr", data=values.transpose(2, 0, 1).copy(), chunks=(2, 16, 16))
    for channels in ((4, 1, 6), (5,), (0, 1, 2), (3, 3, 2), (2, 6), (6, 2, 1, 0)):
        pixels = values[..., list(channels)]
        for given_, axes in ((path, None), (store, "cyx"), (values, "yxc")):
            source = open_source(given_, axes=axes, channels=channels)
            assert source.info.alpha == (len(channels) in (2, 4))
            assert f"channels={','.join(map(str, channels))}" in source.info.choice
            if not source.info.random_access:
                source = spool(source, tmp_path / "spool")
            np.testing.assert_array_equal(whole(source), pixels)
    with pytest.raises(SourceError, match=r"7 bands.*--channels"):
        open_source(path)
    with pytest.raises(SourceError, match=r"7 channels.*--channels"):
        open_source(values, axes="yxc")
    for given_, axes in ((path, None), (values, "yxc")):
        with pytest.raises(SourceError, match=r"no channel 7: it has 7, counted from 0 to 6") as caught:
            open_source(given_, axes=axes, channels="7,1,2")
        assert one_line(str(caught.value))


@pytest.mark.parametrize("subifd", [False, True])
def test_a_level_is_a_raster_of_its_own(tmp_path: Path, subifd: bool) -> None:
    pixels = picture(400, 600, 3)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": 3, "metadata": None}
        tif.write(pixels, subifds=2 if subifd else 0, resolution=(400, 400), **options)
        for step in (2, 4):
            tif.write(pixels[::step, ::step], resolution=(400 / step, 400 / step), subfiletype=1, **options)
    group = zarr.create_group(tmp_path / "a.zarr")
    for level, step in enumerate((1, 2, 4)):
        group.create_array(str(level), data=pixels[::step, ::step], chunks=(64, 64, 3))
    scales: Any = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [0.025 * step] * 2 + [1]}]}
        for level, step in enumerate((1, 2, 4))
    ]
    units: Any = [{"name": name, "type": "space", "unit": "millimeter"} for name in "yx"] + [
        {"name": "c", "type": "channel"}
    ]
    group.attrs["multiscales"] = [{"axes": units, "datasets": scales}]
    for place in (path, tmp_path / "a.zarr"):
        for level, step in enumerate((1, 2, 4)):
            source = open_source(place, level=level)
            np.testing.assert_array_equal(whole(source), pixels[::step, ::step])
            assert source.info.resolution == pytest.approx((40 / step, 40 / step))
            assert len(source.info.levels) == 2 - level
            assert source.info.choice == ((f"level={level}",) if level else ())
            assert source.thumbnail(25).shape == (25, 38, 3)
        with pytest.raises(
            SourceError, match=r"no level 3; there is: 0 \(600 x 400\), 1 \(300 x 200\), 2 \(150 x 100\)"
        ):
            open_source(place, level=3)
    with pytest.raises(SourceError, match=r"no level 1; there is: 0 \(600 x 400\)"):
        open_source(pixels, level=1)


def test_what_was_chosen_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    values = picture(40, 50, 3, "uint16")
    tiled_tiff(tmp_path / "a.tif", values)
    zarr.create_array(tmp_path / "a.zarr", data=values)
    for place in (tmp_path / "a.tif", tmp_path / "a.zarr", values):
        plain = open_source(place).fingerprint()
        assert plain == open_source(place, level=0).fingerprint()
        for other in ({"range": (0, 9)}, {"channels": "2,1,0"}, {"nodata": 7}):
            assert open_source(place, **other).fingerprint() != plain


def test_floats_need_a_range_or_carry_one(tmp_path: Path) -> None:
    values = np.linspace(-1, 3, 400, dtype=np.float32).reshape(20, 20)
    tifffile.imwrite(tmp_path / "none.tif", values, tile=(16, 16))
    with pytest.raises(SourceError, match=r"float32.*--range 0,1") as caught:
        open_source(tmp_path / "none.tif")
    assert one_line(str(caught.value))
    tags = [(340, "f", 1, -1.0, True), (341, "f", 1, 3.0, True)]  # SMinSampleValue, SMaxSampleValue
    tifffile.imwrite(tmp_path / "stated.tif", values, tile=(16, 16), extratags=tags)
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", data=values[None])
    group.attrs["ome"] = {
        "multiscales": [{"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "0"}]}],
        "omero": {"channels": [{"label": "height", "window": {"min": -1, "max": 3, "start": 0, "end": 1}}]},
    }
    for place in (tmp_path / "stated.tif", tmp_path / "a.zarr"):
        source = open_source(place)
        np.testing.assert_array_equal(whole(source), expected(values[..., None], -1, 3, None))
        assert any("as the file states" in note for note in source.info.notes)
        assert (
            whole(open_source(place, range="0,1"))[..., 0].tolist()
            == expected(values[..., None], 0, 1, None)[..., 0].tolist()
        )


def test_unsigned_8_and_16_bits_stay_as_they_are_whatever_the_file_states(tmp_path: Path) -> None:
    pixels = picture(20, 30, 1, "uint16")
    tags = [(340, "H", 1, 5, True), (341, "H", 1, 900, True)]
    tiled_tiff(tmp_path / "a.tif", pixels, tile=16, extratags=tags)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(source), pixels)
    assert source.info.choice == ()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_nodata_as_the_file_states_it_is_transparent(tmp_path: Path, kind: str) -> None:
    values = picture(40, 50, 3, "uint8").astype(kind)
    values[5:9, 7:20] = 7
    values[30, 30] = (7, 7, 8)  # not in all bands: a colour like others
    tiled_tiff(tmp_path / "a.tif", values, tile=16, extratags=[(42113, "s", 2, "7", True)])
    options: dict[str, Any] = {"range": (0, 255)} if kind == "float32" else {}
    source = open_source(tmp_path / "a.tif", **options)
    assert source.info.alpha
    pixels = whole(source)
    top = np.iinfo(pixels.dtype).max
    hidden = (values == 7).all(axis=-1)
    np.testing.assert_array_equal(pixels[..., 3], np.where(hidden, 0, top))
    assert pixels[30, 30, 3] == top
    factor = 257 if kind == "float32" else 1
    np.testing.assert_array_equal(pixels[..., :3], values.astype(int) * factor)
    assert "nodata=7.0" in source.info.choice
    # Another value asked for takes the place of the file's.
    assert whole(open_source(tmp_path / "a.tif", nodata=9, **options))[6, 8, 3] == top


def test_nodata_hides_in_a_file_that_is_unpacked_first_and_beside_alpha(tmp_path: Path) -> None:
    pixels = picture(40, 50, 4)
    pixels[5:9, 7:20, :3] = 0
    pyvips.Image.new_from_array(pixels).copy(interpretation="srgb").pngsave(str(tmp_path / "a.png"))
    source = open_source(tmp_path / "a.png", nodata=0)
    copy = spool(source, tmp_path / "spool")
    wanted = pixels.copy()
    wanted[5:9, 7:20, 3] = 0
    np.testing.assert_array_equal(whole(copy), wanted)
    np.testing.assert_array_equal(source.thumbnail(40), wanted)
    np.testing.assert_array_equal(whole(open_source(pixels, nodata=0)), wanted)
    # Another choice gets another copy.
    np.testing.assert_array_equal(whole(spool(open_source(tmp_path / "a.png"), tmp_path / "spool")), pixels)


def test_a_real_raster_of_16_bit_integers() -> None:
    path = SHARED / "images" / "formats" / "riotiler_cog_int16.tif"
    if not path.is_file():
        pytest.skip(f"the reference images are not there ({path})")
    source = open_source(path, range=(0, 5000))
    values = tifffile.imread(path)
    found = whole(source)
    wanted = np.rint(np.clip((values.astype(float)) * (65535 / 5000), 0, 65535))
    np.testing.assert_array_equal(found[..., 0], wanted)
    if source.info.alpha:
        np.testing.assert_array_equal(found[..., 1] == 0, values == float(tifffile.TiffFile(path).pages.first.nodata))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"level": -1}, "level"),
        ({"level": True}, "level"),
        ({"channels": "1,2,3,4,5"}, "channels"),
        ({"channels": ()}, "channels"),
        ({"channels": "red"}, "channels"),
        ({"channels": (-1,)}, "channels"),
        ({"range": "1"}, "LO,HI"),
        ({"range": (1, 1)}, "black"),
        ({"range": (0, float("nan"))}, "black"),
        ({"range": (0, float("inf"))}, "black"),
        ({"nodata": "none"}, "nodata"),
    ],
)
def test_senseless_wishes_are_refused_in_one_line(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Choice.of(**asked)
    assert one_line(str(caught.value))


def test_wishes_a_raster_cannot_follow_are_refused(tmp_path: Path) -> None:
    cmyk = picture(40, 50, 4)
    tifffile.imwrite(tmp_path / "a.tif", cmyk, photometric="separated", tile=(16, 16))
    with pytest.raises(UrstTilesError, match="stored as cmyk"):
        open_source(tmp_path / "a.tif", range=(0, 100))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.tif", channels=3)), cmyk[..., 3:])
    with pytest.raises(SourceError, match="open already"):
        open_source(open_source(cmyk), level=1)


def test_the_command_line_asks_for_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = picture(200, 300, 5, "uint16").astype(np.float32)
    path = str(tmp_path / "a.tif")
    with tifffile.TiffWriter(path) as tif:
        options: dict[str, Any] = {"tile": (32, 32), "photometric": "minisblack", "planarconfig": "contig"}
        tif.write(values, subifds=1, metadata=None, **options)
        tif.write(values[::2, ::2], subfiletype=1, metadata=None, **options)
    words = ["--level", "1", "--channels", "4,1,0", "--range", "0,70000", "--nodata", "7"]
    main(["info", path, "--json", *words])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["alpha"]) == (150, 100, True)
    assert facts["choice"] == ["level=1", "channels=4,1,0", "range=0.0,70000.0", "nodata=7.0"]
    out = tmp_path / "out.tif"
    main(["stylize", path, str(out), "--quiet", "--network", "identity", *words])
    wanted = expected(values[::2, ::2][..., [4, 1, 0]], 0, 70000, 7)
    np.testing.assert_array_equal(tifffile.imread(out), wanted)
    for wrong, says in ((["--range", "1"], "LO,HI"), (["--level", "9"], "no level 9"), ([], "--channels")):
        with pytest.raises(SystemExit) as caught:
            main(["info", path, *wrong])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert says in said


def test_axes_are_asked_for_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((3, 40, 4), np.uint8))
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "a.zarr")])
    assert "--axes" in capsys.readouterr().err
    main(["info", str(tmp_path / "a.zarr"), "--axes", "cyx", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["bands"]) == (4, 40, 3)


@pytest.mark.parametrize("kind", ["tif", "planar", "zarr"])
def test_memory_of_mapped_values_stays_below_what_is_said(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).random((3000, 3000, 3), np.float32)
    path = tmp_path / ("a.zarr" if kind == "zarr" else "a.tif")
    if kind == "zarr":
        zarr.create_array(path, data=values, chunks=(256, 256, 3))
    else:
        planar: Any = "separate" if kind == "planar" else "contig"
        given_ = values.transpose(2, 0, 1) if kind == "planar" else values
        tifffile.imwrite(path, given_, photometric="rgb", planarconfig=planar, tile=(256, 256), compression="deflate")
    del values
    code = (
        "from urst_tiles.geometry import Window\n"
        "from urst_tiles.sources import open_source\n"
        f"source = open_source({str(path)!r}, range=(0, 1), nodata=7)\n"
        "source.read(Window(0, 0, 64, 64))\n"
        "started()\n"
        "pixels = source.read(Window(100, 100, 2500, 2500))\n"
        "assert pixels.nbytes == 2500 * 2500 * 8\n"
    )
    said = open_source(path, range=(0, 1), nodata=7).cache_bytes(2500)
    assert peak_growth_of(code) < said + 2500 * 2500 * 8
    assert said < 400 << 20

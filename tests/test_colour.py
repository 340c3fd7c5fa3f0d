"""Networks see sRGB, results say truthfully what they are in, and what a network leaves alone stays as it is."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.colour_support import ADOBE, P3, PROPHOTO, SRGB, Space, grey_profile, scanner_profile
from tests.support import SHARED, picture, write_tiff
from urst_tiles import load_network, open_source, plan, stylize, stylize_array
from urst_tiles.errors import InputError, RunMismatchError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.sources.base import RasterInfo
from urst_tiles.sources.colour import Colours, srgb_profile
from urst_tiles.sources.pictures import read_rgb
from urst_tiles.sources.spool import spool

IDENTITY = load_network("identity")
SPACES = {"p3": P3, "adobe": ADOBE, "prophoto": PROPHOTO}
CMYK = bytes(pyvips.Operation.call("profile_load", "cmyk"))
SCANNER = scanner_profile()
HUGE_TABLE = SCANNER.replace(SCANNER[(at := SCANNER.index(b"mft1")) : at + 11], SCANNER[at : at + 10] + b"\xff")
"""255 steps a side, which are not there."""
ADOBE_JPEG = SHARED / "images" / "formats" / "sample.jpg"
PHOTO = SHARED / "images" / "photos" / "kodim23.png"


@pytest.fixture(scope="module")
def small_network() -> StyleNetwork:
    return untrained(width=8, seed=1)


def info(profile: bytes | None, dtype: Any = "uint8", colour: Any = "rgb") -> RasterInfo:
    return RasterInfo(64, 64, 3 if colour == "rgb" else 1, dtype, colour, alpha=False, icc_profile=profile)


def of_sRGB(space: Space, dtype: str, count: int = 40_000) -> tuple[NDArray[Any], NDArray[Any]]:  # noqa: N802
    """Colours of a space that sRGB has too, and the same in sRGB by the formulas: (1, count, 3) in levels."""
    top = np.iinfo(dtype).max
    levels = np.random.default_rng(0).integers(0, top + 1, (1, count, 3))
    own = (SRGB.to(space, levels / top) * top).round().astype(dtype)
    return own, space.to(SRGB, own / top) * top


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("name", SPACES)
def test_to_srgb_and_back_is_what_the_formulas_say(name: str, dtype: Any) -> None:
    space, top = SPACES[name], np.iinfo(dtype).max
    own, expected = of_sRGB(space, dtype)
    colours = Colours.of(info(space.profile, dtype))
    seen = colours.to_srgb(own)
    assert seen.dtype == dtype
    # In 16 bit what is left are the profiles' own numbers, which have 16 bits after the point.
    assert np.abs(seen - expected).max() <= (1 if dtype == "uint8" else 100)
    assert np.abs(seen - expected).mean() <= (0.3 if dtype == "uint8" else 4)
    back = colours.from_srgb(seen)
    expected_back = SRGB.to(space, seen / top) * top
    light = expected_back > 0.05 * top  # where a gamma's slope has no bound, nor has a rounding error
    assert np.abs(back - expected_back)[light].max() <= (1 if dtype == "uint8" else 100)
    assert np.abs(back.astype(int) - own)[light].max() <= (2 if dtype == "uint8" else 100)


def test_8_bit_is_what_pillow_says() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for space in SPACES.values():
        own = ImageCms.ImageCmsProfile(io.BytesIO(space.profile))
        srgb = ImageCms.createProfile("sRGB")
        for source, target, ours in (
            (own, srgb, Colours.of(info(space.profile)).to_srgb(pixels)),
            (srgb, own, Colours.of(info(space.profile)).from_srgb(pixels)),
        ):
            image = ImageCms.profileToProfile(
                Image.fromarray(pixels), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC
            )
            assert np.abs(np.asarray(image).astype(int) - ours).max() <= 1


def test_16_bit_keeps_more_than_8() -> None:
    ramp = np.repeat(np.arange(20_000, 24_096, dtype=np.uint16)[None, :, None], 3, axis=-1)
    colours = Colours.of(info(PROPHOTO.profile, "uint16"))
    seen = colours.to_srgb(ramp)
    assert len(np.unique(seen[..., 1])) > 4000
    assert len(np.unique(colours.from_srgb(seen)[..., 1])) > 4000


def test_large_pieces_are_converted_in_parts() -> None:
    pixels = np.random.default_rng(2).integers(0, 65536, (701, 400, 3), dtype=np.uint16)
    colours = Colours.of(info(ADOBE.profile, "uint16"))
    whole = colours.to_srgb(pixels[:, ::-1])  # not contiguous, as windows are
    assert (whole == np.concatenate([colours.to_srgb(pixels[row : row + 7, ::-1]) for row in range(0, 701, 7)])).all()


@pytest.mark.parametrize("profile", [SRGB.profile, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_a_profile_that_is_srgb_changes_nothing_and_is_carried(profile: bytes) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for wish in ("source", "srgb"):
        colours = Colours.of(info(profile), wish)
        assert (colours.profile, colours.tag, colours.notes) == (None, profile, ())
        assert colours.to_srgb(pixels) is pixels
        assert colours.finish(pixels, pixels, pixels) is pixels
        assert colours.bytes_for(1000, 1000, 2) == 0


def test_srgb_when_asked_for_is_said_by_the_same_bytes_each_time() -> None:
    first, second = Colours.of(info(P3.profile), "srgb"), Colours.of(info(None), "srgb")
    assert first.tag
    assert first.tag == second.tag
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(first.tag)))
    assert Colours.of(info(None)) == Colours()
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (b"\0" * 128, "damaged"),
        (bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)), "damaged"),
        (P3.profile[:300], "cut off"),
        (P3.profile[:128] + bytes(400), "damaged"),
        (HUGE_TABLE, "larger than itself"),
        (CMYK, "describes CMYK"),
        (CMYK + bytes(50_000_000), "too large"),
    ],
)
def test_a_profile_that_cannot_be_used_is_left_out_and_said(colour: Any, profile: bytes, said: str) -> None:
    colours = Colours.of(info(profile, colour=colour))
    assert (colours.profile, colours.tag) == (None, None)
    assert len(colours.notes) == 1
    assert said in colours.notes[0]


@given(
    at=st.lists(st.tuples(st.integers(0, len(PROPHOTO.profile) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.integers(0, len(PROPHOTO.profile)),
)
@settings(max_examples=100, deadline=None)
def test_a_damaged_profile_is_used_or_left_out_but_never_raises(at: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(PROPHOTO.profile)
    for place, value in at:
        damaged[place] = value
    for profile in (bytes(damaged), bytes(damaged[:length])):
        for dtype in (np.uint8, np.uint16):
            colours = Colours.of(info(profile, np.dtype(dtype).name))
            pixels: Any = np.zeros((2, 3, 3), dtype)
            seen = colours.to_srgb(pixels)
            assert colours.from_srgb(seen).shape == (2, 3, 3)
            assert colours.tag in (None, profile, colours.srgb)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_is_read_through_its_profile_and_comes_out_in_srgb(tmp_path: Path, dtype: Any) -> None:
    """A linear scan: its middle grey is much lighter than the number says."""
    top = np.iinfo(dtype).max
    pixels = picture(50, 60, 1, dtype)
    source = write_tiff(tmp_path / "in.tif", pixels, iccprofile=grey_profile(1.0))
    report = stylize(source, tmp_path / "out.tif", network=IDENTITY, window=32)
    expected = SRGB.encoded(pixels / top) * top
    found = tifffile.imread(tmp_path / "out.tif")
    assert np.abs(found - expected[..., None]).max() <= (1 if dtype == "uint8" else 100)
    assert any("profile is one of grey" in note for note in report.notes)
    assert open_source(tmp_path / "out.tif").info.icc_profile == Colours.of(info(None), "srgb").tag


def test_grey_with_a_profile_of_rgb_is_grey_in_that_space(tmp_path: Path) -> None:
    pixels = picture(40, 40, 1)
    source = write_tiff(tmp_path / "in.tif", pixels, iccprofile=ADOBE.profile)
    stylize(source, tmp_path / "out.tif", network=IDENTITY)
    assert (tifffile.imread(tmp_path / "out.tif") == pixels[..., None]).all()
    assert open_source(tmp_path / "out.tif").info.icc_profile == ADOBE.profile


def test_a_profile_that_leads_only_one_way_gives_srgb_and_says_so() -> None:
    colours = Colours.of(info(SCANNER))
    assert (colours.profile, colours.back, colours.tag) == (SCANNER, False, colours.srgb)
    assert "only be read from" in colours.notes[0]
    lightness = np.array([[[128, 128, 128]]], np.uint8)  # L* = 50.2
    assert np.abs(colours.to_srgb(lightness).astype(int) - 119).max() <= 2


@given(
    name=st.sampled_from(sorted(SPACES)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    bands=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=8, deadline=None)
def test_law_7_an_identity_network_returns_every_byte_whatever_the_profile(
    tmp_path_factory: pytest.TempPathFactory, name: str, dtype: Any, bands: int, seed: int
) -> None:
    """Noise: most colours of these spaces lie outside sRGB."""
    folder = tmp_path_factory.mktemp("identity")
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (45, 70, bands), dtype=dtype)
    source = write_tiff(folder / "in.tif", pixels if bands > 1 else pixels[..., 0], iccprofile=SPACES[name].profile)
    stylize(source, folder / "out.tif", network=IDENTITY, window=32, thumbnail=16)
    found = tifffile.imread(folder / "out.tif")
    colour = np.repeat(pixels[..., :1], 3, -1) if bands < 3 else pixels[..., :3]
    assert (found[..., :3] == colour).all()
    if bands in (2, 4):
        assert (found[..., 3] == pixels[..., -1]).all()


@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.uint16]))
@settings(max_examples=50, deadline=None)
def test_a_pixel_keeps_its_bytes_where_all_its_bands_are_left_alone_and_only_there(
    data: st.DataObject, dtype: Any
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    own = rng.integers(0, np.iinfo(dtype).max + 1, (9, 11, 3), dtype=dtype)
    colours = Colours.of(info(P3.profile, np.dtype(dtype).name))
    seen = colours.to_srgb(own)
    changed = rng.random((9, 11, 3)) < data.draw(st.floats(0, 1))
    made = np.where(changed, seen ^ 1, seen)
    found, touched = colours.finish(made, seen, own), changed.any(-1)
    assert (found[~touched] == own[~touched]).all()
    assert (found[touched] == colours.from_srgb(made)[touched]).all()


@pytest.mark.parametrize(("space", "dtype"), [(P3, "uint8"), (ADOBE, "uint16")])
def test_a_run_gives_the_colours_that_an_srgb_raster_gives(
    tmp_path: Path, small_network: StyleNetwork, space: Space, dtype: Any
) -> None:
    """By way of the formulas: converted before the run, and what comes out converted after it."""
    top = np.iinfo(dtype).max
    plain = picture(150, 190, 3, dtype)
    own = (SRGB.to(space, plain / top) * top).round().astype(dtype)
    seen = (space.to(SRGB, own / top) * top).round().astype(dtype)
    options: Any = {"network": small_network, "window": 144, "thumbnail": 150}  # all of it: nothing is shrunk
    stylize(write_tiff(tmp_path / "plain.tif", seen), tmp_path / "plain_out.tif", **options)
    report = stylize(write_tiff(tmp_path / "in.tif", own, iccprofile=space.profile), tmp_path / "out.tif", **options)
    expected = SRGB.to(space, tifffile.imread(tmp_path / "plain_out.tif") / top) * 255
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.dtype == dtype
    difference = np.abs(found / top * 255 - expected)
    # In 8 bit the two roads round differently by a level, and these weights make several of one.
    assert np.quantile(difference, 0.999) <= (8 if dtype == "uint8" else 0.5)
    assert difference.mean() <= (1 if dtype == "uint8" else 0.05)
    # Without the conversion, it would be another picture.
    assert np.abs(found / top - tifffile.imread(tmp_path / "plain_out.tif") / top).mean() > 0.01
    assert any("sRGB" in note for note in report.notes)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        page: Any = tif.pages.first
        assert page.tags["InterColorProfile"].value == space.profile
    assert pyvips.Image.new_from_file(str(tmp_path / "out.tif")).get("icc-profile-data") == space.profile
    if dtype == "uint8":
        with Image.open(tmp_path / "out.tif") as image:
            assert image.info["icc_profile"] == space.profile


def test_both_output_profiles_look_the_same(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(150, 170), iccprofile=P3.profile)
    for wish in ("source", "srgb"):
        stylize(source, tmp_path / f"{wish}.tif", network=small_network, thumbnail=64, output_profile=wish)
    ours = P3.lab(tifffile.imread(tmp_path / "source.tif") / 255)
    srgb = SRGB.lab(tifffile.imread(tmp_path / "srgb.tif") / 255)
    difference = np.linalg.norm(ours - srgb, axis=-1)
    assert np.quantile(difference, 0.99) < 2
    assert difference.mean() < 0.5
    found = open_source(tmp_path / "srgb.tif").info.icc_profile
    assert found == Colours.of(info(None), "srgb").tag
    record = json.loads(json.dumps(plan(source, small_network, output_profile="srgb").to_json()))
    assert any("as asked" in note for note in record["notes"])


def test_tiled_equals_whole_with_conversion(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(260, 230, 4), iccprofile=P3.profile)
    for window in (144, 512):
        stylize(source, tmp_path / f"{window}.zarr", network=small_network, window=window, thumbnail=64)
    tiled, whole = (open_source(tmp_path / f"{window}.zarr").thumbnail(10_000) for window in (144, 512))
    difference = np.abs(tiled.astype(int) - whole)
    assert (difference > 0).mean() < 2e-3  # a value on the edge between two levels may be rounded either way
    assert difference.max() <= 3


def test_what_is_asked_for_lazily_is_the_same(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(160, 150, 3, "uint16"), iccprofile=ADOBE.profile)
    stylize(source, tmp_path / "out.tif", network=small_network, window=144, thumbnail=64)
    lazy = stylize_array(source, small_network, window=144, thumbnail=64)
    assert (lazy.compute(scheduler="sync") == tifffile.imread(tmp_path / "out.tif")).all()


def test_another_output_profile_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 40), iccprofile=P3.profile)
    with pytest.raises(Exception, match="stopped"):
        stylize(source, tmp_path / "out.zarr", network=IDENTITY, stop=lambda: True)
    with pytest.raises(RunMismatchError, match="output_profile: source → srgb"):
        stylize(source, tmp_path / "out.zarr", network=IDENTITY, output_profile="srgb")
    with pytest.raises(InputError, match="output profile 'p3' is unknown"):
        plan(source, IDENTITY, output_profile="p3")  # type: ignore[arg-type]


def test_converting_is_part_of_the_memory_sum(tmp_path: Path) -> None:
    def parts(profile: bytes | None) -> set[str]:
        source = write_tiff(tmp_path / "in.tif", picture(40, 40), iccprofile=profile)
        phases = plan(source, IDENTITY, time_it=False).memory.phases
        return {part.name for phase in phases if phase.name == "shards" for part in phase.parts}

    assert parts(P3.profile) - parts(SRGB.profile) == {"colour"}
    assert parts(SRGB.profile) == parts(None)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_formats_without_tiles_keep_their_profile_too(tmp_path: Path, suffix: str) -> None:
    options: Any = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(picture(60, 80)).save(tmp_path / f"in.{suffix}", icc_profile=P3.profile, **options)
    pixels = np.asarray(Image.open(tmp_path / f"in.{suffix}"))
    stylize(tmp_path / f"in.{suffix}", tmp_path / "out.tif", network=IDENTITY, window=32)
    found = open_source(tmp_path / "out.tif")
    assert found.info.icc_profile == P3.profile
    assert np.abs(found.thumbnail(1000).astype(int) - pixels).max() <= (2 if suffix == "jpg" else 0)  # two decoders


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pictures_to_learn_from_are_srgb(tmp_path: Path, dtype: Any) -> None:
    """Style images and photos to train on."""
    own, expected = of_sRGB(P3, dtype, 400)
    write_tiff(tmp_path / "p3.tif", own.reshape(20, 20, 3), iccprofile=P3.profile)
    found = read_rgb(tmp_path / "p3.tif", 100)
    assert found.dtype == np.uint8
    assert np.abs(found - expected.reshape(20, 20, 3) / np.iinfo(dtype).max * 255).max() <= 1
    write_tiff(tmp_path / "grey.tif", own.reshape(20, 20, 3)[..., 0], iccprofile=grey_profile(1.0))
    linear = own.reshape(20, 20, 3)[..., :1] / np.iinfo(dtype).max
    assert np.abs(read_rgb(tmp_path / "grey.tif", 100) - SRGB.encoded(linear) * 255).max() <= 1
    paper = np.zeros((20, 20, 4), np.uint8)
    tifffile.imwrite(tmp_path / "cmyk.tif", paper, photometric="separated", iccprofile=CMYK)
    assert read_rgb(tmp_path / "cmyk.tif", 100).min() > 245


@pytest.mark.parametrize("profile", [P3.profile, CMYK[:5000], b"\0" * 500])
def test_cmyk_with_a_profile_that_cannot_be_used_says_which_was(tmp_path: Path, profile: bytes) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 1] = 200
    for name, icc in (("own", profile), ("none", None)):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="separated", tile=(32, 32), iccprofile=icc)
    own, none = (open_source(tmp_path / f"{name}.tif") for name in ("own", "none"))
    assert (own.thumbnail(4) == none.thumbnail(4)).all()
    assert "cannot be used" in own.info.notes[0]
    assert own.info.icc_profile == none.info.icc_profile == srgb_profile()


def test_a_profile_beside_lab_means_nothing(tmp_path: Path) -> None:
    lab = np.zeros((32, 32, 3), np.uint16)
    lab[..., 0] = np.linspace(0, 65280, 32)
    for name, icc in (("own", P3.profile), ("none", None)):
        tifffile.imwrite(tmp_path / f"{name}.tif", lab, photometric="cielab", tile=(32, 32), iccprofile=icc)
    own, none = (open_source(tmp_path / f"{name}.tif") for name in ("own", "none"))
    assert own.info == dataclasses.replace(none.info, notes=own.info.notes)
    assert (own.thumbnail(32) == none.thumbnail(32)).all()
    assert "not kept" in own.info.notes[0]


@pytest.mark.parametrize("layout", ["tiles", "strips"])
@pytest.mark.parametrize("kind", ["cmyk", "lab"])
def test_what_was_converted_to_srgb_says_so_all_the_way(tmp_path: Path, kind: str, layout: str) -> None:
    """With a profile embedded that means something else by now; unpacked first where it lies in strips."""
    options: Any = {"tile": (32, 32)} if layout == "tiles" else {"rowsperstrip": 8}
    if kind == "cmyk":
        values, options = picture(70, 90, 4), options | {"photometric": "separated", "iccprofile": CMYK}
    else:
        values, options = picture(70, 90, 3, "uint16"), options | {"photometric": "cielab", "iccprofile": P3.profile}
    tifffile.imwrite(tmp_path / "in.tif", values, **options)
    source, srgb = open_source(tmp_path / "in.tif"), srgb_profile()
    readable = spool(source, tmp_path / "spool")
    assert source.info.random_access == (layout == "tiles")
    assert readable.info == dataclasses.replace(source.info, random_access=True, tile=readable.info.tile)
    assert source.info.icc_profile == srgb
    for copy in (tmp_path / "spool").glob("*.tif"):
        assert pyvips.Image.new_from_file(str(copy)).get("icc-profile-data") == srgb
    pixels = source.thumbnail(1000)
    for wish in ("source", "srgb"):
        colours = Colours.of(readable.info, wish)
        assert (colours.profile, colours.back, colours.tag, colours.notes) == (None, False, srgb, ())
        assert colours.to_srgb(pixels) is pixels
    report = stylize(tmp_path / "in.tif", tmp_path / "out.tif", network=IDENTITY, window=32)
    assert any(f"converted from {kind}" in note for note in report.notes)
    assert (tifffile.imread(tmp_path / "out.tif") == pixels).all()
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.pages.first.tags.valueof("InterColorProfile") == srgb


@pytest.mark.parametrize("kind", ["lab", "labs", "lch"])
def test_every_space_that_is_converted_says_so(tmp_path: Path, kind: str) -> None:
    pixels = picture(40, 50)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb").colourspace(kind)
    image.write_to_file(str(tmp_path / "in.v"))
    source = open_source(tmp_path / "in.v")
    assert source.info.icc_profile == srgb_profile()
    assert np.abs(source.thumbnail(100).astype(int) - pixels).max() <= 1


@pytest.mark.skipif(not ADOBE_JPEG.exists(), reason="needs ../shared/images/formats")
def test_a_cameras_adobe_rgb_is_honoured() -> None:
    source = open_source(ADOBE_JPEG)
    colours = Colours.of(source.info)
    assert colours.back
    pixels = source.thumbnail(200)
    expected = ADOBE.to(SRGB, pixels / 255) * 255
    assert np.abs(colours.to_srgb(pixels) - expected).max() <= 2


@pytest.mark.skipif(not PHOTO.exists(), reason="needs ../shared/images/photos")
def test_a_photo_in_p3_is_stylized_as_it_is_in_srgb(tmp_path: Path) -> None:
    """In 16 bit: in 8, the network makes as much of the rounding between two spaces as of one level of noise."""
    photo = pyvips.Image.new_from_file(str(PHOTO)).crop(250, 100, 224, 208).numpy().astype(np.uint16) * 257
    own = (SRGB.to(P3, photo / 65535) * 65535).round().astype(np.uint16)
    options: Any = {"style": "starry-night", "thumbnail": 208}
    stylize(write_tiff(tmp_path / "srgb.tif", photo), tmp_path / "srgb_out.tif", **options)
    stylize(write_tiff(tmp_path / "p3.tif", own, iccprofile=P3.profile), tmp_path / "p3_out.tif", **options)
    stylize(write_tiff(tmp_path / "raw.tif", own), tmp_path / "raw_out.tif", **options)
    srgb = SRGB.lab(tifffile.imread(tmp_path / "srgb_out.tif") / 65535)
    managed, blind = (
        np.linalg.norm(P3.lab(tifffile.imread(tmp_path / f"{name}_out.tif") / 65535) - srgb, axis=-1)
        for name in ("p3", "raw")
    )
    assert managed.mean() < 0.1
    assert blind.mean() > 2

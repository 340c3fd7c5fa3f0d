"""Raster files: every window is what tifffile or Pillow reads, and nothing of the metadata is lost."""

from __future__ import annotations

import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from tests.sources_support import (
    assert_mean_of_areas,
    cut,
    mean_of_areas,
    one_line,
    peak_growth_of,
    picture,
    tiled_tiff,
    windows,
)
from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.colour import srgb_profile
from urst_tiles.sources.vips import VipsSource

COMPRESSIONS = [None, "zlib", "lzw", "jpeg"]
BROAD = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_windows_of_tiled_tiffs_are_what_was_written(tmp_path: Path, bands: int, dtype: str, bigtiff: bool) -> None:
    pixels = picture(201, 333, bands, dtype)
    source = VipsSource(tiled_tiff(tmp_path / "a.tif", pixels, bigtiff=bigtiff, compression="zlib"))
    info = source.info
    assert (info.width, info.height, info.bands, info.dtype) == (333, 201, bands, dtype)
    assert (info.colour, info.alpha) == ("grey" if bands < 3 else "rgb", bands in (2, 4))
    assert info.random_access
    assert info.tile == (64, 64)
    for window in windows(333, 201, 10):
        read = source.read(window)
        np.testing.assert_array_equal(read, cut(pixels, window))
        assert read.dtype == dtype
        assert read.flags.c_contiguous
        assert read.flags.owndata
        assert read.flags.writeable


@BROAD
@given(data=st.data(), tile=st.sampled_from([16, 48, 256]))
def test_any_window_of_any_tiling(tmp_path: Path, data: st.DataObject, tile: int) -> None:
    pixels = picture(150, 170, 3)
    source = VipsSource(tiled_tiff(tmp_path / f"{tile}.tif", pixels, tile=tile))
    col, row = data.draw(st.integers(0, 169)), data.draw(st.integers(0, 149))
    window = Window(col, row, data.draw(st.integers(1, 170 - col)), data.draw(st.integers(1, 150 - row)))
    np.testing.assert_array_equal(source.read(window), cut(pixels, window))


def test_strip_tiffs_and_pngs_are_not_random_access(tmp_path: Path) -> None:
    pixels = picture(90, 120, 3)
    tifffile.imwrite(tmp_path / "strips.tif", pixels, photometric="rgb", rowsperstrip=7, compression="zlib")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / "interlaced.png"), interlace=True)
    for name in ("strips.tif", "a.png", "a.webp", "interlaced.png"):
        source = VipsSource(tmp_path / name)
        assert not source.info.random_access, name
        assert source.info.tile is None
        for window in windows(120, 90, 4):
            np.testing.assert_array_equal(source.read(window), cut(pixels, window), name)
        assert_mean_of_areas(source.thumbnail(30), pixels)


def test_a_v_file_is_random_access(tmp_path: Path) -> None:
    pixels = picture(50, 60, 3, "uint16")
    pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16").write_to_file(str(tmp_path / "a.v"))
    source = VipsSource(tmp_path / "a.v")
    assert source.info.random_access
    assert source.info.resolution is None
    np.testing.assert_array_equal(source.read(Window(3, 4, 50, 40)), cut(pixels, Window(3, 4, 50, 40)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tiled", "jpeg"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, kind: str) -> None:
    pixels = picture(100, 150, 3)
    path = tmp_path / ("a.tif" if kind == "tiled" else "a.jpg")
    if kind == "tiled":
        resolution: dict[str, Any] = {"resolution": (300, 150), "resolutionunit": "INCH"}
        tiled_tiff(path, pixels, tile=32, extratags=[(274, 3, 1, orientation, True)], **resolution)
        upright = Image.fromarray(pixels)
        upright.getexif()[274] = orientation
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif, quality=95)
        upright = Image.open(path)
    expected = np.asarray(ImageOps.exif_transpose(upright))
    source = VipsSource(path)
    info = source.info
    assert info.orientation == orientation
    assert (info.height, info.width) == expected.shape[:2]
    for window in windows(info.width, info.height, 6):
        np.testing.assert_array_equal(source.read(window), cut(expected, window))
    thumbnail = source.thumbnail(20)
    assert_mean_of_areas(thumbnail, expected)
    if kind == "tiled":
        stated = (300 / 25.4, 150 / 25.4)
        assert info.resolution == pytest.approx(stated[::-1] if orientation > 4 else stated)


def test_an_icc_profile_is_carried_verbatim_and_pixels_are_not_touched(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = picture(70, 80, 3)
    tiled_tiff(tmp_path / "a.tif", pixels, iccprofile=profile)
    tiled_tiff(tmp_path / "g.tif", pixels[..., :1], iccprofile=bytes(range(256)))  # nobody looks into it
    for suffix in ("png", "webp"):
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", icc_profile=profile, lossless=True)
    for name, expected in [("a.tif", profile), ("g.tif", bytes(range(256))), ("a.png", profile), ("a.webp", profile)]:
        source = VipsSource(tmp_path / name)
        assert source.info.icc_profile == expected
        np.testing.assert_array_equal(source.read(Window(0, 0, 80, 70)), pixels[..., : source.info.bands])
        assert source.info.notes == ()


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [("INCH", (300, 150), (300 / 25.4, 150 / 25.4)), ("CENTIMETER", (100, 50), (10, 5)), ("NONE", (3, 2), None)],
)
def test_resolution_of_a_tiff(tmp_path: Path, unit: str, value: tuple[int, int], expected: Any) -> None:
    path = tiled_tiff(tmp_path / "a.tif", picture(20, 20, 3), resolution=value, resolutionunit=unit)
    found = VipsSource(path).info.resolution
    assert found is None if expected is None else found == pytest.approx(expected)


def test_resolution_of_other_formats(tmp_path: Path) -> None:
    image = Image.fromarray(picture(20, 20, 3))
    for suffix in ("png", "jpg"):
        image.save(tmp_path / f"none.{suffix}")
        assert VipsSource(tmp_path / f"none.{suffix}").info.resolution is None
        # 72 dpi stated, which is also what libvips fills in
        image.save(tmp_path / f"stated.{suffix}", dpi=(72, 144))
        assert VipsSource(tmp_path / f"stated.{suffix}").info.resolution == pytest.approx(
            (72 / 25.4, 144 / 25.4), rel=1e-3
        )


def test_palettes_and_few_bits_are_expanded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paletted = Image.fromarray(picture(40, 50, 3)).quantize(16)
    paletted.save(tmp_path / "palette.png")
    paletted.save(tmp_path / "palette.tif")
    bits = Image.fromarray((rng.random((40, 50)) > 0.5).astype(np.uint8) * 255).convert("1")
    bits.save(tmp_path / "bits.png")
    bits.save(tmp_path / "bits.tif")
    for name, expected in [
        ("palette.png", np.asarray(paletted.convert("RGB"))),
        ("palette.tif", np.asarray(paletted.convert("RGB"))),
        ("bits.png", np.asarray(bits.convert("L"))[..., None]),
        ("bits.tif", np.asarray(bits.convert("L"))[..., None]),
    ]:
        np.testing.assert_array_equal(VipsSource(tmp_path / name).read(Window(0, 0, 50, 40)), expected, name)


def test_white_is_zero(tmp_path: Path) -> None:
    pixels = picture(40, 50, 1)
    path = tiled_tiff(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(VipsSource(path).read(Window(0, 0, 50, 40)), 255 - pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk_becomes_rgb_and_says_so(tmp_path: Path, dtype: str) -> None:
    top = int(np.iinfo(dtype).max)
    pixels = np.zeros((64, 64, 4), dtype)  # cyan, magenta, yellow, black; nothing of any is white
    pixels[:, 16:32, 0] = pixels[:, 32:48, 1] = pixels[:, 48:, 3] = top
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="separated", tile=(32, 32))
    source = VipsSource(path)
    info = source.info
    assert (info.bands, info.colour, info.alpha, info.dtype) == (3, "rgb", False, dtype)
    assert info.icc_profile == srgb_profile()
    assert "converted from cmyk to sRGB" in info.notes[0]
    white, cyan, magenta, black = (source.read(Window(col, 8, 1, 1))[0, 0] / top for col in (8, 24, 40, 56))
    assert white.min() > 0.97
    assert cyan[0] < 0.4 < cyan[2]
    assert magenta[1] < 0.4 < magenta[0]
    assert black.max() < 0.25


def test_lab_becomes_rgb_that_says_so(tmp_path: Path) -> None:
    """Lab in 16 bits: L of 0 … 100 in 0 … 65280, a and b signed in 256ths."""
    lab = np.zeros((64, 64, 3), np.uint16)
    lab[..., 0] = 65280 * 6 // 10
    lab[:, 32:, 1] = 30 * 256
    path = tmp_path / "lab.tif"
    tifffile.imwrite(path, lab, photometric="cielab", tile=(32, 32))
    info = VipsSource(path).info
    assert (info.bands, info.dtype, info.icc_profile) == (3, "uint16", srgb_profile())
    assert "sRGB" in info.notes[0]
    grey, red = (VipsSource(path).read(Window(col, 9, 1, 1))[0, 0] / 257 for col in (5, 40))
    np.testing.assert_allclose(grey, 145, atol=2)  # L* = 60 in sRGB
    assert red[0] > red[2] > red[1]


def test_a_cmyk_profile_is_applied_and_replaced(tmp_path: Path) -> None:
    """libvips has a CMYK profile of its own; embedded, it must not be found in the result."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 255
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(pixels).copy(interpretation="cmyk").tiffsave(str(path), tile=True, profile="cmyk")
    assert "icc-profile-data" in pyvips.Image.new_from_file(str(path)).get_fields()
    source = VipsSource(path)
    assert source.info.icc_profile == srgb_profile()
    assert "ICC" in source.info.notes[0]
    red, _, blue = source.read(Window(0, 0, 1, 1))[0, 0]
    assert red < 100 < blue


def test_lab_in_8_bits_is_refused_in_plain_words(tmp_path: Path) -> None:
    Image.new("LAB", (64, 48)).save(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="Lab TIFFs of 8 bit"):
        VipsSource(tmp_path / "a.tif")


def test_premultiplied_alpha_is_noted(tmp_path: Path) -> None:
    pixels = picture(40, 50, 4)
    pixels[..., 3] = 255
    path = tiled_tiff(tmp_path / "a.tif", pixels, extrasamples=["assocalpha"])
    source = VipsSource(path)
    assert source.info.alpha
    assert any("multiplied by alpha" in note for note in source.info.notes)
    np.testing.assert_array_equal(source.read(Window(0, 0, 50, 40)), pixels)  # alpha is 1: dividing changes nothing


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((40, 40), np.float32), "float32 pixels"),
        (np.zeros((40, 40), np.int16), "int16 pixels"),
        (np.zeros((40, 40), np.int32), "int32 pixels"),
        (np.zeros((40, 40), np.complex64), "out of range"),
        (np.zeros((40, 40, 7), np.uint8), "7 bands"),
    ],
)
def test_pixels_of_other_kinds_are_refused(tmp_path: Path, values: Any, says: str) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        photometric="minisblack",
        tile=(32, 32),
        planarconfig="contig" if values.ndim == 3 else None,
    )
    with pytest.raises(SourceError, match=says) as caught:
        VipsSource(tmp_path / "a.tif")
    assert one_line(str(caught.value))
    assert "a.tif" in str(caught.value)


def test_bands_stored_apart_in_tiles_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), photometric="rgb", planarconfig="separate", tile=(32, 32)
    )
    with pytest.raises(SourceError, match="stored apart"):
        VipsSource(tmp_path / "a.tif")


@pytest.mark.parametrize("subifd", [False, True])
def test_levels_of_pyramids(tmp_path: Path, subifd: bool) -> None:
    pixels = picture(1000, 1400, 3)
    image = pyvips.Image.new_from_array(pixels)
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, tile_width=64, tile_height=64, pyramid=True, subifd=subifd)
    source = VipsSource(tmp_path / "a.tif")
    assert source.info.levels[:2] == ((700, 500), (350, 250))
    assert source.info.notes == ()
    thumbnail = source.thumbnail(120)  # from the level of 250
    expected = mean_of_areas(pixels, thumbnail.shape[1], thumbnail.shape[0])
    assert thumbnail.shape == (120, 168, 3)
    assert np.abs(thumbnail - expected).mean() < 1  # a level's pixel on a border between two counts as even
    assert np.abs(thumbnail - expected).max() < 8
    assert np.abs(thumbnail - expected).max() > 1  # else no level was used


def test_a_thumbnail_is_the_exact_mean_and_is_never_larger(tmp_path: Path) -> None:
    for bands, dtype in [(1, "uint8"), (4, "uint16"), (2, "uint8")]:
        pixels = picture(301, 203, bands, dtype)
        source = VipsSource(tiled_tiff(tmp_path / f"{bands}.tif", pixels))
        found = source.thumbnail(64)
        assert found.shape == (95, 64, bands)
        assert_mean_of_areas(found, pixels)
        np.testing.assert_array_equal(source.thumbnail(1000), pixels)
        assert source.thumbnail(1).shape == (1, 1, bands)


def test_other_pages_are_noted(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.stack([picture(64, 64, 3, seed=seed) for seed in range(3)]),
        photometric="rgb",
        tile=(32, 32),
    )
    assert any("3 images" in note for note in VipsSource(tmp_path / "a.tif").info.notes)


def test_threads_agree_with_one(tmp_path: Path) -> None:
    pixels = picture(700, 900, 3)
    source = VipsSource(tiled_tiff(tmp_path / "a.tif", pixels, compression="jpeg", tile=128))
    whole = VipsSource(tmp_path / "a.tif").read(Window(0, 0, 900, 700))
    wrong: list[Window] = []

    def check(seed: int) -> None:
        for window in windows(900, 700, 40, seed):
            if not np.array_equal(source.read(window), cut(whole, window)):
                wrong.append(window)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_pickles_small_and_reads_after(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    for name in ("a.tif", "a.png"):
        path = tmp_path / name
        if name == "a.tif":
            tiled_tiff(path, pixels)
        else:
            Image.fromarray(pixels).save(path)
        source = VipsSource(path)
        source.read(Window(0, 0, 10, 10))  # a reader is open, and must not travel
        packed = pickle.dumps(source)
        assert len(packed) < 5000
        again: Source = pickle.loads(packed)
        assert again.info == source.info
        assert again.fingerprint() == source.fingerprint()
        np.testing.assert_array_equal(again.read(Window(5, 6, 100, 90)), cut(pixels, Window(5, 6, 100, 90)))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_truncated_tiff_never_gives_filler(tmp_path: Path, compression: str | None) -> None:
    pixels = picture(320, 320, 3)
    path = tiled_tiff(tmp_path / "a.tif", pixels, compression=compression)
    whole = VipsSource(path).read(Window(0, 0, 320, 320))
    data = path.read_bytes()
    grid = [Window(col, row, 64, 64) for row in range(0, 320, 64) for col in range(0, 320, 64)]
    failed = 0
    for kept in (0.02, 0.3, 0.55, 0.9, 1 - 1 / len(data)):
        path.write_bytes(data[: int(len(data) * kept)])
        try:
            source = VipsSource(path)
        except SourceError as error:
            assert one_line(str(error))  # noqa: PT017
            continue
        for window in [*grid, *grid, Window(0, 0, 320, 320)]:  # twice: what failed once must not succeed by being kept
            read = read_or_message(source, window)
            if isinstance(read, str):
                failed += 1
                columns = f"columns {window.col_off}\N{EN DASH}{window.col_end - 1}"
                rows = f"rows {window.row_off}\N{EN DASH}{window.row_end - 1}"
                assert read.startswith(f"cannot read {columns}, {rows} of {path}: ")
                assert one_line(read)
            else:
                np.testing.assert_array_equal(read, cut(whole, window))
        with pytest.raises(SourceError):
            source.thumbnail(32)
    assert failed > 50
    path.write_bytes(data)
    np.testing.assert_array_equal(VipsSource(path).read(Window(0, 0, 320, 320)), whole)


def read_or_message(source: VipsSource, window: Window) -> Any:
    try:
        return source.read(window)
    except SourceError as error:
        return str(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "strips.tif", "webp"])
def test_a_truncated_file_of_another_kind_never_gives_filler(tmp_path: Path, suffix: str) -> None:
    pixels = picture(200, 200, 3)
    path = tmp_path / f"a.{suffix}"
    if suffix == "strips.tif":
        tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=8)
    else:
        Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    for kept in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * kept)])
        for use in ("read", "thumbnail"):
            with pytest.raises(SourceError) as caught:
                _ = VipsSource(path).read(Window(0, 190, 200, 10)) if use == "read" else VipsSource(path).thumbnail(50)
            assert one_line(str(caught.value))
            assert str(path) in str(caught.value)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("no image at all\n" * 100)
    (tmp_path / "half.tif").write_bytes(b"II*\0\x08\0\0\0")
    for name, says in [
        ("missing.tif", "no such file"),
        (".", "folder"),
        ("empty.tif", "is empty"),
        ("text.tif", "does not read this format"),
        ("half.tif", "half.tif"),
    ]:
        with pytest.raises(SourceError, match=says) as caught:
            open_source(tmp_path / name)
        assert one_line(str(caught.value))


def test_a_window_outside_is_refused(tmp_path: Path) -> None:
    source = VipsSource(tiled_tiff(tmp_path / "a.tif", picture(50, 60, 3)))
    for window in (Window(0, 0, 61, 10), Window(0, 41, 10, 10), Window(1000, 1000, 1, 1)):
        with pytest.raises(InputError, match="60 x 50"):
            source.read(window)


def _header(width: int, height: int, tags: list[tuple[int, int, int, int]]) -> bytes:
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        *tags,
    ]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(204)


@pytest.mark.parametrize(
    ("width", "height", "tags"),
    [
        (10**9, 10**9, [(273, 4, 1, 8), (278, 4, 1, 10**9), (279, 4, 1, 100)]),
        (10**6, 10**6, [(273, 4, 1, 8), (278, 4, 1, 10**6), (279, 4, 1, 100)]),
        (10**6, 10**6, [(322, 4, 1, 256), (323, 4, 1, 256), (324, 4, 1, 8), (325, 4, 1, 100)]),
        (65536, 65536, [(322, 4, 1, 65536), (323, 4, 1, 65536), (324, 4, 1, 8), (325, 4, 1, 100)]),
    ],
)
def test_absurd_sizes_take_no_memory(tmp_path: Path, width: int, height: int, tags: list[Any]) -> None:
    (tmp_path / "a.tif").write_bytes(_header(width, height, tags))
    growth = peak_growth_of(
        "from urst_tiles.sources.vips import VipsSource\n"
        "from urst_tiles.errors import SourceError\n"
        "from urst_tiles.geometry import Window\n"
        "started()\n"
        "try:\n"
        f"    VipsSource({str(tmp_path / 'a.tif')!r}).read(Window(0, 0, 10, 10))\n"
        "except SourceError as error:\n"
        "    print(error)\n"
        "else:\n"
        "    raise SystemExit('read pixels that are not there')\n"
    )
    assert growth < 64 << 20


def test_memory_stays_below_what_is_said(tmp_path: Path) -> None:
    """Many windows all over a raster whose two rows of tiles would take 50 MB for each thread."""
    path = tmp_path / "wide.tif"
    pyvips.Image.black(24_000, 3_000, bands=3).tiffsave(
        str(path), tile=True, tile_width=512, tile_height=512, compression="deflate"
    )
    growth = peak_growth_of(
        "import random\n"
        "from urst_tiles.sources.vips import VipsSource\n"
        "from urst_tiles.geometry import Window\n"
        f"source = VipsSource({str(path)!r})\n"
        "said = source.cache_bytes(800) + 800 * 800 * 3\n"
        "source.read(Window(0, 0, 1, 1))\n"
        "started()\n"
        "random.seed(1)\n"
        "for _ in range(250):\n"
        "    source.read(Window(random.randrange(23_200), random.randrange(2_200), 800, 800))\n"
        "assert peak() - base[0] < said, (peak() - base[0], said)\n"
    )
    assert growth > 1 << 20  # else nothing was measured


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_the_memory_of_a_thumbnail_stays_below_what_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "wide"
    image = pyvips.Image.black(24_000, 3_000, bands=3)
    if kind == "tiff":
        image.tiffsave(str(path), tile=True, tile_width=512, tile_height=512, compression="deflate")
    else:
        zarr.create_array(str(path), shape=(3, 3_000, 24_000), chunks=(3, 500, 500), dtype="uint8")[:] = 9
    growth = peak_growth_of(
        "from urst_tiles.sources import open_source\n"
        "from urst_tiles.sources.shrink import thumbnail_bytes\n"
        "from urst_tiles.geometry import Window\n"
        f"source = open_source({str(path)!r})\n"
        "source.read(Window(0, 0, 1, 1))\n"
        "started()\n"
        "result = source.thumbnail(256)\n"
        "said = thumbnail_bytes(source, 256) + result.nbytes\n"
        "assert peak() - base[0] < said, (peak() - base[0], said)\n"
        "assert said < 24_000 * 3_000 * 3 * 3, said\n"
    )
    assert growth > 1 << 20


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    path = tiled_tiff(tmp_path / "a.tif", picture(50, 60, 3))
    before = VipsSource(path).fingerprint()
    assert VipsSource(path).fingerprint() == before
    tiled_tiff(path, picture(50, 61, 3))
    assert VipsSource(path).fingerprint() != before

"""A tiled copy of what has no random access: the same pixels, the same facts, never half of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

from tests.sources_support import cut, peak_growth_of, picture, tiled_tiff, windows
from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.spool import spool, spool_bytes
from urst_tiles.sources.vips import VipsSource


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_copy_is_the_same_source(tmp_path: Path, orientation: int, bands: int) -> None:
    pixels = picture(300, 400, bands)
    exif = Image.Exif()
    exif[274] = orientation
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if bands > 2 else None
    image = Image.fromarray(pixels[..., 0] if bands == 1 else pixels, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[bands])
    image.save(tmp_path / "a.png", exif=exif, icc_profile=profile, dpi=(300, 150))
    source = VipsSource(tmp_path / "a.png")
    copy = spool(source, tmp_path / "spool")
    assert copy.info.random_access
    assert copy.info.tile == (256, 256)
    for fact in ("width", "height", "bands", "dtype", "colour", "alpha", "icc_profile", "resolution", "orientation"):
        assert getattr(copy.info, fact) == getattr(source.info, fact), fact
    assert copy.info.orientation == orientation
    assert copy.name == source.name
    assert copy.fingerprint() == source.fingerprint()
    for window in windows(source.info.width, source.info.height, 8):
        np.testing.assert_array_equal(copy.read(window), source.read(window))
    np.testing.assert_array_equal(copy.thumbnail(50), source.thumbnail(50))


def test_16_bits_and_converted_colours_are_copied_as_presented(tmp_path: Path) -> None:
    deep = picture(100, 120, 3, "uint16")
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", rowsperstrip=10)
    inks = picture(100, 120, 4)
    tifffile.imwrite(tmp_path / "inks.tif", inks, photometric="separated", rowsperstrip=10)
    for name in ("deep.tif", "inks.tif"):
        source = VipsSource(tmp_path / name)
        copy = spool(source, tmp_path)
        assert copy.info.notes == source.info.notes
        np.testing.assert_array_equal(copy.read(Window(0, 0, 120, 100)), source.read(Window(0, 0, 120, 100)))
    np.testing.assert_array_equal(spool(VipsSource(tmp_path / "deep.tif"), tmp_path).read(Window(0, 0, 120, 100)), deep)


def test_a_complete_copy_is_used_again_and_an_incomplete_one_is_not(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen: list[int] = []
    folder = tmp_path / "spool"
    spool(VipsSource(tmp_path / "a.png"), folder, progress=seen.append)
    assert seen
    assert seen == sorted(seen)
    assert seen[-1] == 300 * 400
    (copy,) = folder.iterdir()
    before = copy.stat()
    again: list[int] = []
    spool(VipsSource(tmp_path / "a.png"), folder, progress=again.append)
    assert again == []
    assert copy.stat().st_mtime_ns == before.st_mtime_ns
    copy.write_bytes(copy.read_bytes()[: before.st_size // 2])
    source = spool(VipsSource(tmp_path / "a.png"), folder)
    np.testing.assert_array_equal(source.read(Window(0, 0, 400, 300)), pixels)
    assert list(folder.iterdir()) == [copy]


def test_a_changed_original_gets_another_copy(tmp_path: Path) -> None:
    for seed in (0, 1):
        pixels = picture(60, 70, 3, seed=seed)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        source = spool(VipsSource(tmp_path / "a.png"), tmp_path / "spool")
        np.testing.assert_array_equal(source.read(Window(0, 0, 70, 60)), pixels)
    assert len(list((tmp_path / "spool").iterdir())) == 2


def test_random_access_needs_no_copy(tmp_path: Path) -> None:
    source = VipsSource(tiled_tiff(tmp_path / "a.tif", picture(50, 60, 3)))
    assert spool(source, tmp_path / "spool") is source
    assert spool_bytes(source) == 0
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_original_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(300, 400, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="cannot copy"):
        spool(VipsSource(path), tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_progress_raises_stops_the_copy(tmp_path: Path) -> None:
    Image.fromarray(picture(900, 900, 3)).save(tmp_path / "a.png")

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spool(VipsSource(tmp_path / "a.png"), tmp_path / "spool", progress=stop)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    Image.fromarray(picture(60, 70, 3)).save(tmp_path / "a.png")
    (tmp_path / "taken").touch()
    with pytest.raises(SourceError, match="taken"):
        spool(VipsSource(tmp_path / "a.png"), tmp_path / "taken")


def test_the_disk_it_takes_is_what_was_said(tmp_path: Path) -> None:
    for name, side in (("a.png", 700), ("b.png", 256)):
        Image.fromarray(picture(side, side + 1, 3)).save(tmp_path / name)
        source = VipsSource(tmp_path / name)
        folder = tmp_path / f"spool-{name}"
        spool(source, folder)
        (copy,) = folder.iterdir()
        assert copy.stat().st_size <= spool_bytes(source) <= copy.stat().st_size + 100_000


def test_a_copy_pickles_and_reads(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = spool(VipsSource(tmp_path / "a.png"), tmp_path)
    packed = pickle.dumps(source)
    assert len(packed) < 8000
    window = Window(10, 20, 300, 200)
    np.testing.assert_array_equal(pickle.loads(packed).read(window), cut(pixels, window))


@pytest.mark.parametrize("kind", ["plain", "progressive"])
def test_a_large_picture_is_copied_in_the_memory_that_was_said(tmp_path: Path, kind: str) -> None:
    """60 megapixels, 180 MB of pixels, which only a progressive file needs in memory whole."""
    path = tmp_path / "a.jpg"
    pyvips.Image.black(10_000, 6_000, bands=3).jpegsave(str(path), interlace=kind == "progressive")
    source = VipsSource(path)
    assert any("whole" in note for note in source.info.notes) == (kind == "progressive")
    growth = peak_growth_of(
        "from urst_tiles.sources.spool import spool\n"
        "from urst_tiles.sources.vips import VipsSource\n"
        f"source = VipsSource({str(path)!r})\n"
        "started()\n"
        f"spool(source, {str(tmp_path / 'spool')!r})\n"
    )
    assert growth < source.stream_bytes
    assert (growth < 128 << 20) == (kind == "plain")


def test_reading_what_is_too_large_to_decode_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urst_tiles.sources.vips_reader._WHOLE_BYTES", 1000)
    pixels = picture(60, 70, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = VipsSource(tmp_path / "a.png")
    with pytest.raises(SourceError, match="Spool it"):
        source.read(Window(0, 0, 10, 10))
    np.testing.assert_array_equal(spool(source, tmp_path).read(Window(0, 0, 70, 60)), pixels)

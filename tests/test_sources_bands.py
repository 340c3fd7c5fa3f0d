"""Reading in bands what can only be decoded from the top: the same pixels, few rows held, whoever asks when."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.sources_support import cut, peak_growth_of, picture, tiled_tiff
from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import bands, vips
from urst_tiles.sources.bands import BandedSource, band_bytes, suits_bands
from urst_tiles.sources.vips import VipsSource

SIDE = 300, 400
"""(height, width)"""


@pytest.fixture(autouse=True)
def few_rows_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 rows of the picture below: windows begin and end inside them."""
    monkeypatch.setattr("urst_tiles.sources.vips._STREAM_BYTES", 7 * SIDE[1] * 3)


@pytest.fixture
def png(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = picture(*SIDE, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png", pixels


def grid(rows: int, halo: int) -> list[Window]:
    """Windows in the order a run reads them: row by row, every second row from its end."""
    found = []
    for number, top in enumerate(range(0, SIDE[0], rows)):
        line = []
        for left in range(0, SIDE[1], rows):
            row, col = max(0, top - halo), max(0, left - halo)
            below, right = min(SIDE[0], top + rows + halo), min(SIDE[1], left + rows + halo)
            line.append(Window(col, row, right - col, below - row))
        found += line[::-1] if number % 2 else line
    return found


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(8, 310), halo=st.integers(0, 40))
def test_windows_have_the_pixels_of_the_file(tmp_path_factory: pytest.TempPathFactory, rows: int, halo: int) -> None:
    path = tmp_path_factory.getbasetemp() / "law.png"
    pixels = picture(*SIDE, 3)
    if not path.exists():
        Image.fromarray(pixels).save(path)
    source = BandedSource(VipsSource(path), rows + 2 * halo)
    for window in grid(rows, halo):
        np.testing.assert_array_equal(source.read(window), cut(pixels, window))


def test_the_file_is_decoded_once_for_windows_in_order(
    png: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pixels = png
    begun: list[int] = []
    streamed = vips.streamed_rows

    def counted(source: VipsSource) -> object:
        begun.append(1)
        return streamed(source)

    monkeypatch.setattr(bands, "streamed_rows", counted)
    source = BandedSource(VipsSource(path), 64 + 20)
    for window in grid(64, 10):
        source.read(window)
    assert len(begun) == 1
    # A window above what is held: right, from the top again.
    above = Window(0, 0, 50, 30)
    np.testing.assert_array_equal(source.read(above), cut(pixels, above))
    assert len(begun) == 2


def test_no_more_rows_are_held_than_said(png: tuple[Path, np.ndarray]) -> None:
    source = BandedSource(VipsSource(png[0]), 40)
    for window in grid(30, 5):
        source.read(window)
        held = sum(len(block) for block in source._held)
        assert window.height <= held <= 40 + 2 * 7


def test_threads_may_ask_side_by_side(png: tuple[Path, np.ndarray]) -> None:
    path, pixels = png
    source = BandedSource(VipsSource(path), 84)
    windows = grid(64, 10) * 3
    with ThreadPoolExecutor(4) as pool:
        for window, found in zip(windows, pool.map(source.read, windows), strict=True):
            np.testing.assert_array_equal(found, cut(pixels, window))


def test_another_process_reads_the_same(png: tuple[Path, np.ndarray]) -> None:
    path, pixels = png
    source = BandedSource(VipsSource(path), 84)
    source.read(Window(0, 0, 400, 84))
    data = pickle.dumps(source)
    assert len(data) < 4000  # no rows
    np.testing.assert_array_equal(pickle.loads(data).read(Window(5, 100, 40, 50)), pixels[100:150, 5:45])
    assert source.fingerprint() == VipsSource(path).fingerprint()
    np.testing.assert_array_equal(source.thumbnail(30), VipsSource(path).thumbnail(30))


def test_what_cannot_be_read_is_said(png: tuple[Path, np.ndarray]) -> None:
    path, pixels = png
    source = BandedSource(VipsSource(path), 84)
    with pytest.raises(InputError, match="reaches outside"):
        source.read(Window(0, 250, 10, 60))
    with pytest.raises(InputError, match="is higher than the 84 rows"):
        source.read(Window(0, 0, 10, 85))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    cut_off = BandedSource(VipsSource(path), 84)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"cannot read the window .* of .*a\.png"):
            cut_off.read(Window(0, 230, 400, 70))
    # Whole again, it goes on.
    path.write_bytes(data)
    np.testing.assert_array_equal(cut_off.read(Window(0, 200, 400, 84)), pixels[200:284])


def test_a_file_of_another_size_is_noticed(png: tuple[Path, np.ndarray]) -> None:
    path, _ = png
    source = BandedSource(VipsSource(path), 84)
    Image.fromarray(picture(200, 100, 3)).save(path)
    with pytest.raises(SourceError, match="has changed since it was opened"):
        source.read(Window(0, 0, 10, 10))


def test_what_suits_bands(tmp_path: Path) -> None:
    pixels = picture(64, 80, 3)
    image, exif = Image.fromarray(pixels), Image.Exif()
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "progressive.jpg", progressive=True)
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    tifffile.imwrite(tmp_path / "strips.tif", pixels, photometric="rgb", rowsperstrip=10)
    tiled_tiff(tmp_path / "tiled.tif", pixels)
    found = {path.name: suits_bands(VipsSource(path)) for path in sorted(tmp_path.iterdir())}
    assert found == {
        "plain.jpg": True,
        "progressive.jpg": False,
        "strips.tif": True,
        "tiled.tif": False,
        "turned.jpg": False,
    }


def test_the_memory_stays_below_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pyvips.Image.black(10_000, 6_000, bands=3).pngsave(str(path))
    growth = peak_growth_of(
        "from urst_tiles.geometry import Window\n"
        "from urst_tiles.sources.bands import BandedSource\n"
        "from urst_tiles.sources.vips import VipsSource\n"
        f"source = BandedSource(VipsSource({str(path)!r}), 1100)\n"
        "started()\n"
        "for row in range(0, 5000, 1000):\n"
        "    source.read(Window(0, row, 1000, 1100))\n"
    )
    said = band_bytes(VipsSource(path), 1100)
    assert 1100 * 10_000 * 3 < growth < said
    assert said < 6_000 * 10_000 * 3

"""Deep Zoom: the tiles of every level, put together by Pillow, are that level; what was stopped goes on."""

from __future__ import annotations

import re
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.stores_support import digests, finished_store, halved, layout_for
from tests.support import left_in
from urst_tiles.errors import InputError, RunStopped, StoreError
from urst_tiles.exporting import export
from urst_tiles.geometry import Window
from urst_tiles.stores import OmeZarrStore

_SPACE = "{http://schemas.microsoft.com/deepzoom/2008}"


def described(path: Path) -> tuple[int, int, int, int, str]:
    """(width, height, tile, overlap, suffix)."""
    image = ET.fromstring(path.read_text())
    assert image.tag == f"{_SPACE}Image"
    size = image.find(f"{_SPACE}Size")
    assert size is not None
    return (
        int(size.attrib["Width"]),
        int(size.attrib["Height"]),
        int(image.attrib["TileSize"]),
        int(image.attrib["Overlap"]),
        image.attrib["Format"],
    )


def put_together(path: Path, level: int, size: tuple[int, int], bands: int) -> NDArray[Any]:
    """A level from its tiles, as a viewer places them; where two show the same pixel they must agree."""
    _, _, side, overlap, suffix = described(path)
    folder = path.with_name(path.stem + "_files") / str(level)
    width, height = size
    whole = np.full((height, width, bands), -1, np.int32)
    names = {f"{c}_{r}.{suffix}" for c in range(-(-width // side)) for r in range(-(-height // side))}
    assert {entry.name for entry in folder.iterdir()} == names
    for name in names:
        col, row = map(int, re.findall(r"\d+", name)[:2])
        left, top = max(col * side - overlap, 0), max(row * side - overlap, 0)
        right, bottom = min((col + 1) * side + overlap, width), min((row + 1) * side + overlap, height)
        with Image.open(folder / name) as tile:
            assert tile.size == (right - left, bottom - top)
            pixels = np.asarray(tile).astype(np.int32)
        place = whole[top:bottom, left:right]
        if suffix == "png":
            assert ((place == -1) | (place == pixels)).all()
        place[:] = pixels
    assert whole.min() >= 0
    return whole


def expected_levels(store: OmeZarrStore) -> list[NDArray[Any]]:
    """From the full size to one pixel: (height, width, bands)."""
    levels: list[NDArray[Any]] = [store.read(level, Window(0, 0, *size)) for level, size in enumerate(store.levels)]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(halved(levels[-1]))
    return [level.transpose(1, 2, 0) for level in levels]


@settings(max_examples=8, deadline=None)
@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    bands=st.sampled_from([3, 4]),
    tile=st.sampled_from([14, 30, 254]),
    memory=st.sampled_from([1, 10_000, 10**9]),
)
def test_the_tiles_are_the_picture(width: int, height: int, bands: Literal[3, 4], tile: int, memory: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, _ = finished_store(Path(folder) / "a.zarr", layout_for(width, height, bands))
        path = Path(folder) / "a.dzi"
        export(store, path, tile=tile, tile_format="png", memory=memory)
        assert described(path) == (width, height, tile, 1, "png")
        levels = expected_levels(store)
        # Deep Zoom counts from one pixel up: as many levels as halvings, and one.
        assert len(levels) == int(np.ceil(np.log2(max(width, height)))) + 1
        assert {entry.name for entry in (Path(folder) / "a_files").iterdir()} == {str(n) for n in range(len(levels))}
        for down, pixels in enumerate(levels):
            size = (pixels.shape[1], pixels.shape[0])
            np.testing.assert_array_equal(put_together(path, len(levels) - 1 - down, size, bands), pixels)
        assert left_in(Path(folder)) == ["a.dzi", "a.zarr", "a_files"]


@pytest.mark.parametrize("tile_format", ["jpeg", "webp"])
def test_lossy_tiles_are_close(tmp_path: Path, tile_format: Literal["jpeg", "webp"]) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(100, 70))
    export(store, tmp_path / "a.dzi", tile=62, tile_format=tile_format, quality=95)
    whole = put_together(tmp_path / "a.dzi", 7, (100, 70), 3)
    assert np.abs(whole - pixels.transpose(1, 2, 0)).mean() < 10


def test_the_defaults(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(300, 20))
    export(store, tmp_path / "a.dzi")
    assert described(tmp_path / "a.dzi") == (300, 20, 254, 1, "jpg")
    alpha, _ = finished_store(tmp_path / "b.zarr", layout_for(20, 20, 4, "uint16"))
    assert "8 bit" in export(alpha, tmp_path / "b.dzi").notes[0]
    assert described(tmp_path / "b.dzi")[4] == "png"


def test_colours_are_converted_to_srgb(tmp_path: Path) -> None:
    """Against what libvips makes of the whole picture, and no tile carries a profile."""
    wide = pyvips.Image.new_from_memory(bytes(3), 1, 1, 3, "uchar").copy(interpretation="srgb")
    p3 = wide.icc_transform("p3", input_profile="srgb").get("icc-profile-data")
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(60, 50, icc_profile=p3))
    report = export(store, tmp_path / "a.dzi", tile_format="png")
    assert "sRGB" in report.notes[0]
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels.transpose(1, 2, 0)), interpretation="srgb")
    expected = image.icc_transform("srgb", input_profile="p3").numpy()
    assert np.abs(expected.astype(int) - pixels.transpose(1, 2, 0)).max() > 10
    np.testing.assert_array_equal(put_together(tmp_path / "a.dzi", 6, (60, 50), 3), expected)
    with Image.open(tmp_path / "a_files/6/0_0.png") as tile:
        assert "icc_profile" not in tile.info


def stop_at(part: int) -> Any:
    seen = {"asked": 0}

    def stop() -> bool:
        seen["asked"] += 1
        return seen["asked"] >= part

    return stop


def test_what_was_stopped_goes_on(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(200, 150))
    export(store, tmp_path / "whole.dzi", tile=30, memory=20_000)
    with pytest.raises(RunStopped, match="of 57 parts were written; the same command goes on"):
        export(store, tmp_path / "a.dzi", tile=30, memory=20_000, stop=stop_at(40))
    assert left_in(tmp_path) == ["a.zarr", "a_files.exporting", "whole.dzi", "whole_files"]
    first = tmp_path / "a_files.exporting/8/0_0.jpg"
    written = first.stat().st_mtime_ns
    export(store, tmp_path / "a.dzi", tile=30, memory=20_000)
    assert (tmp_path / "a_files/8/0_0.jpg").stat().st_mtime_ns == written
    assert digests(tmp_path / "a_files") == digests(tmp_path / "whole_files")
    assert left_in(tmp_path) == ["a.dzi", "a.zarr", "a_files", "whole.dzi", "whole_files"]


def test_other_options_begin_again(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(200, 150))
    with pytest.raises(RunStopped):
        export(store, tmp_path / "a.dzi", tile=30, memory=20_000, stop=stop_at(40))
    export(store, tmp_path / "a.dzi", tile=40, tile_format="png")
    put_together(tmp_path / "a.dzi", 8, (200, 150), 3)


def test_killed_between_its_two_names(tmp_path: Path) -> None:
    """The tiles have their name, the description is not there yet: the same call ends it."""
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 40))
    export(store, tmp_path / "whole.dzi")
    with pytest.raises(RunStopped):
        export(store, tmp_path / "a.dzi", stop=lambda: True)
    (tmp_path / "a_files.exporting").rename(tmp_path / "a_files")
    export(store, tmp_path / "a.dzi")
    assert digests(tmp_path / "a_files") == digests(tmp_path / "whole_files")


def test_somebody_elses_tiles_are_only_replaced_on_request(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 40))
    (tmp_path / "a_files").mkdir()
    (tmp_path / "a_files/mine").write_text("mine")
    with pytest.raises(StoreError, match="a_files exists already"):
        export(store, tmp_path / "a.dzi")
    assert (tmp_path / "a_files/mine").read_text() == "mine"
    export(store, tmp_path / "a.dzi", overwrite=True)
    assert not (tmp_path / "a_files/mine").exists()
    with pytest.raises(StoreError, match=r"a\.dzi exists already"):
        export(store, tmp_path / "a.dzi")


def test_what_tiles_cannot_be_is_refused(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 40, 4))
    with pytest.raises(InputError, match="JPEG tiles have none"):
        export(store, tmp_path / "a.dzi", tile_format="jpeg")
    with pytest.raises(InputError, match="PNG tiles have no quality"):
        export(store, tmp_path / "a.dzi", quality=80)
    assert left_in(tmp_path) == ["a.zarr"]

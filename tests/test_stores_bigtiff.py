"""The BigTIFF as tifffile and libvips read it."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores_support import finished_store, layout_for, pixels_for, write_level
from urst_tiles import __version__
from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.stores import OmeZarrStore, StoreLayout, build_pyramid, export_bigtiff
from urst_tiles.stores.bigtiff import Compression


def level_pixels(store: OmeZarrStore, level: int) -> Any:
    return store.read(level, Window(0, 0, *store.levels[level])).transpose(1, 2, 0)


@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    bands=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    compression=st.sampled_from(["deflate", "zstd", "lzw", "none"]),
    tile=st.sampled_from([16, 48, 512]),
    memory=st.sampled_from([1, 20_000, 10**9]),
)
def test_every_level_is_the_stores(
    width: int,
    height: int,
    bands: Literal[3, 4],
    dtype: Literal["uint8", "uint16"],
    compression: Compression,
    tile: int,
    memory: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, pixels = finished_store(Path(folder) / "a.zarr", layout_for(width, height, bands, dtype))
        path = Path(folder) / "a.tif"
        export_bigtiff(store, path, compression=compression, tile=tile, memory=memory)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_bigtiff
            assert len(tiff.pages) == 1
            first: Any = tiff.pages[0]
            levels = [first, *(first.pages or ())]
            assert len(levels) == len(store.levels)
            for level, page in enumerate(levels):
                np.testing.assert_array_equal(page.asarray(), level_pixels(store, level))
        if compression != "zstd":  # the wheels' libvips is built without it
            read = pyvips.Image.new_from_file(str(path)).numpy()
            np.testing.assert_array_equal(read, pixels.transpose(1, 2, 0))
        assert sorted(entry.name for entry in Path(folder).iterdir()) == ["a.tif", "a.zarr"]


@pytest.mark.parametrize("bands", [3, 4])
def test_what_the_file_says(tmp_path: Path, bands: Literal[3, 4]) -> None:
    profile = bytes(range(256)) * 3 + b"odd"
    layout = layout_for(100, 60, bands, "uint16", icc_profile=profile, resolution=(11.811, 23.6))
    store, _ = finished_store(tmp_path / "a.zarr", layout)
    export_bigtiff(store, tmp_path / "a.tif", tile=32)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page: Any = tiff.pages[0]
        assert page.tags["InterColorProfile"].value == profile
        assert page.tags["Software"].value == f"urst-tiles {__version__}"
        assert page.photometric == tifffile.PHOTOMETRIC.RGB
        assert page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
        assert page.tile == (32, 32)
        assert page.get_resolution(unit="centimeter") == pytest.approx((118.11, 236.0), rel=1e-6)
        assert page.extrasamples == (() if bands == 3 else (tifffile.EXTRASAMPLE.UNASSALPHA,))
        assert "DateTime" not in page.tags
        levels: list[Any] = [level.pages[0] for level in tiff.series[0].levels]
        assert [level.is_reduced for level in levels] == [False, True, True, True]
    image = pyvips.Image.new_from_file(str(tmp_path / "a.tif"))
    assert image.get("icc-profile-data") == profile
    assert (image.xres, image.yres) == pytest.approx(layout.resolution, rel=1e-6)
    assert image.hasalpha() == (bands == 4)
    assert image.get("n-subifds") == 3
    half = pyvips.Image.new_from_file(str(tmp_path / "a.tif"), subifd=0)
    np.testing.assert_array_equal(half.numpy(), level_pixels(store, 1))


def test_nothing_is_made_up(tmp_path: Path) -> None:
    """Without a profile and a resolution the file states none of its own."""
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(40, 30))
    export_bigtiff(store, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page: Any = tiff.pages[0]
        assert "InterColorProfile" not in page.tags
        assert page.tags["ResolutionUnit"].value == 1  # none


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(150, 90, 4))
    digests = set()
    for name, memory in [("a.tif", 1), ("b.tif", 50_000), ("c.tif", 10**9)]:
        export_bigtiff(store, tmp_path / name, tile=32, memory=memory)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_it_counts_tiles(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(100, 60))
    seen: list[tuple[int, int]] = []
    export_bigtiff(store, tmp_path / "a.tif", tile=32, on_tile=lambda done, total: seen.append((done, total)))
    # 100 x 60, 50 x 30, 25 x 15, 13 x 8
    assert seen == [(n, 8 + 2 + 1 + 1) for n in range(1, 13)]


def test_a_target_is_only_replaced_on_request(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(40, 30))
    target = tmp_path / "a.tif"
    target.write_text("mine")
    with pytest.raises(StoreError, match=r"a\.tif exists already\. Remove it, choose another name"):
        export_bigtiff(store, target)
    assert target.read_text() == "mine"
    export_bigtiff(store, target, overwrite=True)
    assert tifffile.imread(target).shape == (30, 40, 3)


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(100, 60))
    target = tmp_path / "a.tif"
    target.write_text("mine")

    def stop(done: int, _: int) -> None:
        if done == 5:
            assert (tmp_path / "a.tif.partial").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bigtiff(store, target, tile=32, overwrite=True, on_tile=stop)
    assert target.read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tif", "a.zarr"]


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    layout = layout_for(100, 60)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    with pytest.raises(StoreError, match="the store is not finished: shard 0,0 of level 0 is missing"):
        export_bigtiff(store, tmp_path / "a.tif")
    write_level(store, pixels_for(layout))
    with pytest.raises(StoreError, match="shard 0,0 of level 1 is missing"):
        export_bigtiff(store, tmp_path / "a.tif")
    build_pyramid(store)
    export_bigtiff(store, tmp_path / "a.tif")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(20, 20))
    for tile in (0, 8, 500):
        with pytest.raises(InputError, match=f"multiples of 16, not {tile}"):
            export_bigtiff(store, tmp_path / "a.tif", tile=tile)
    wrong: Any = "brotli"
    with pytest.raises(InputError, match="no compression 'brotli': choose one of deflate, zstd, lzw, none"):
        export_bigtiff(store, tmp_path / "a.tif", compression=wrong)
    with pytest.raises(StoreError, match=r"the folder .*none does not exist"):
        export_bigtiff(store, tmp_path / "none/a.tif")


def test_it_reads_no_more_than_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", StoreLayout(400, 100, 3, "uint8", 32, (64, 128)))
    sizes: list[int] = []
    read = OmeZarrStore.read

    def counted(self: OmeZarrStore, level: int, window: Window) -> Any:
        sizes.append(3 * window.area)
        return read(self, level, window)

    monkeypatch.setattr(OmeZarrStore, "read", counted)
    budget = 3 * 16 * 16 * 10  # ten tiles, not a row of them
    export_bigtiff(store, tmp_path / "a.tif", tile=16, memory=budget)
    assert max(sizes) <= budget
    assert sum(sizes) == sum(3 * w * h for w, h in store.levels)

"""What is written is what is read, by this package and by zarr itself."""

from __future__ import annotations

import json
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from tests.stores_support import finished_store, layout_for, pixels_for, run_python, write_level
from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.stores import OmeZarrStore, StoreLayout, build_pyramid, export_bigtiff
from urst_tiles.stores.encoding import array_options
from urst_tiles.stores.metadata import level_sizes, shard_grid


@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    bands=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    chunk=st.sampled_from([5, 16, 64]),
    cores=st.integers(1, 3),
    down=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_what_is_written_is_what_is_read(
    width: int,
    height: int,
    bands: Literal[3, 4],
    dtype: Literal["uint8", "uint16"],
    chunk: int,
    cores: int,
    down: int,
    seed: int,
) -> None:
    layout = layout_for(width, height, bands, dtype, chunk=chunk, cores=cores, down=down)
    pixels = pixels_for(layout, seed)
    rng = np.random.default_rng(seed)
    left, top = int(rng.integers(width)), int(rng.integers(height))
    part = Window(left, top, int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1)))
    with tempfile.TemporaryDirectory() as folder:
        store = OmeZarrStore.create(Path(folder) / "a.zarr", layout)
        write_level(store, pixels)
        again = OmeZarrStore.open(store.name)
        assert again.layout == layout
        read = again.read(0, part)
        assert read.flags.c_contiguous
        assert read.flags.owndata
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, pixels[:, *part.slices])
        np.testing.assert_array_equal(zarr.open_array(store.name + "/0", mode="r")[...], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("size", [(96, 96), (71, 50), (5, 96)])
def test_a_shards_file_holds_what_zarrs_would(
    tmp_path: Path, dtype: Literal["uint8", "uint16"], size: tuple[int, int]
) -> None:
    """The same chunks, compressed to the same bytes, none more and none less; zarr may put them in another order."""
    layout = layout_for(*size, dtype=dtype, cores=3, down=6)
    pixels = pixels_for(layout)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    write_level(store, pixels)
    theirs = zarr.create_array(LocalStore(tmp_path / "b.zarr"), shape=pixels.shape, **array_options(layout))
    theirs[...] = pixels
    for row in range(-(-layout.height // layout.shard[1])):
        for col in range(-(-layout.width // layout.shard[0])):
            key = f"c/0/{row}/{col}"
            assert chunks_in(tmp_path / "a.zarr/0" / key) == chunks_in(tmp_path / "b.zarr" / key)


def chunks_in(shard: Path, count: int = 18) -> list[bytes | None]:
    """The compressed chunks of a shard's file, row-major, and None for those it lacks."""
    data = shard.read_bytes()
    index = np.frombuffer(data[-4 - 16 * count : -4], "<u8").reshape(count, 2).tolist()
    absent = 2**64 - 1
    assert sum(length for _, length in index if length != absent) == len(data) - 16 * count - 4
    return [None if offset == absent else data[offset : offset + length] for offset, length in index]


def test_empty_pixels_are_stored_too(tmp_path: Path) -> None:
    """That a shard's file exists must mean that it was written."""
    layout = layout_for(32, 32)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    assert not store.has_shard(0, 0, 0)
    store.write_shard(0, 0, 0, np.zeros((3, 32, 32), np.uint8))
    assert store.has_shard(0, 0, 0)
    assert not store.has_shard(1, 0, 0)


def test_a_write_is_one_rename_and_no_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_for(50, 50)
    store, pixels = OmeZarrStore.create(tmp_path / "a.zarr", layout), pixels_for(layout)
    reads: list[str] = []
    renames: list[str] = []
    get, replace = LocalStore.get, Path.replace

    async def counted_get(self: LocalStore, key: str, *args: Any, **kwargs: Any) -> Any:
        reads.append(key)
        return await get(self, key, *args, **kwargs)

    def counted_replace(self: Path, target: Path) -> Path:
        renames.append(str(target))
        return replace(self, target)

    monkeypatch.setattr(LocalStore, "get", counted_get)
    monkeypatch.setattr(Path, "replace", counted_replace)
    for _ in range(2):  # the second time there is something to read
        write_level(store, pixels)
    assert reads == []
    shards = [str(tmp_path / f"a.zarr/0/c/0/{row}/{col}") for row in range(2) for col in range(2)]
    assert renames == 2 * shards
    store.read(0, Window(0, 0, 1, 1))
    assert any("c/0/0/0" in key for key in reads), "the counter does not see reads"


def test_a_torn_shard_is_replaced(tmp_path: Path) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(50, 50))
    shard = tmp_path / "a.zarr/0/c/0/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"window 0,0,50,50 of level 0 of .*a\.zarr cannot be read .*remove that file"):
        store.read(0, Window(0, 0, 50, 50))
    store.write_shard(0, 0, 0, pixels[:, :32, :32])
    assert shard.read_bytes() == whole


def test_threads_write_and_read_at_once(tmp_path: Path) -> None:
    layout = layout_for(200, 150, 4, "uint16")
    store, pixels = OmeZarrStore.create(tmp_path / "a.zarr", layout), pixels_for(layout)
    rows, cols = shard_grid(layout, 0)

    def work(index: int) -> None:
        row, col = divmod(index % (rows * cols), cols)
        window = store.shard_window(0, row, col)
        store.write_shard(0, row, col, pixels[:, *window.slices])
        np.testing.assert_array_equal(store.read(0, window), pixels[:, *window.slices])

    before = zarr.config.get("async.concurrency")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(2 * rows * cols)))  # every shard twice, by whoever comes
    np.testing.assert_array_equal(store.read(0, Window(0, 0, 200, 150)), pixels)
    assert zarr.config.get("async.concurrency") == before
    assert not list((tmp_path / "a.zarr").rglob("*.partial"))


def test_it_pickles_small_and_works_elsewhere(tmp_path: Path) -> None:
    layout = layout_for(40, 40, icc_profile=bytes(100_000))
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    script = """
        import pickle, sys, numpy as np
        store = pickle.loads(bytes.fromhex(sys.argv[1]))
        store.write_shard(0, 1, 1, np.full((3, 8, 8), 7, np.uint8))
    """
    result = run_python(script, packed.hex())
    assert result.returncode == 0, result.stderr
    assert (store.read(0, Window(32, 32, 8, 8)) == 7).all()


def test_a_url_works_like_a_folder() -> None:
    url, layout = "memory://bucket/deep/a.zarr", layout_for(70, 50, 4, icc_profile=b"profile", resolution=(10.0, 20.0))
    store, pixels = finished_store(url, layout)
    assert OmeZarrStore.open(url).layout == layout
    assert pickle.loads(pickle.dumps(store)).name == url
    np.testing.assert_array_equal(store.read(0, Window(3, 5, 60, 40)), pixels[:, 5:45, 3:63])
    assert store.has_shard(0, 1, 2)
    store.clean_partials()
    with pytest.raises(StoreError, match=r"memory://bucket/deep/a\.zarr exists already"):
        OmeZarrStore.create(url, layout)
    with pytest.raises(StoreError, match=r"memory://bucket/none\.zarr does not exist"):
        OmeZarrStore.open("memory://bucket/none.zarr")


def test_a_urls_killed_create_is_done_again() -> None:
    files = fsspec.filesystem("memory")
    unfinished = {"zarr_format": 3, "node_type": "group", "attributes": {"urst_tiles": "unfinished"}}
    files.pipe_file("/killed/a.zarr/zarr.json", json.dumps(unfinished).encode())
    files.pipe_file("/killed/a.zarr/7/zarr.json", b"{}")
    with pytest.raises(StoreError, match="is not a store of this program"):
        OmeZarrStore.open("memory://killed/a.zarr")
    assert OmeZarrStore.create("memory://killed/a.zarr", layout_for(20, 20)).levels == ((20, 20), (10, 10))
    assert not files.exists("/killed/a.zarr/7/zarr.json")


def test_create_refuses_what_stands_there(tmp_path: Path) -> None:
    layout = layout_for(20, 20)
    (tmp_path / "file.zarr").write_text("mine")
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "dangling.zarr").symlink_to(tmp_path / "nowhere")
    OmeZarrStore.create(tmp_path / "store.zarr", layout)
    for name in ("file", "empty", "dangling", "store"):
        with pytest.raises(StoreError, match=f"{name}.zarr exists already. Open it, remove it or choose another name"):
            OmeZarrStore.create(tmp_path / f"{name}.zarr", layout)
    assert (tmp_path / "file.zarr").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(StoreError, match=r"the folder .*none does not exist. Create it first"):
        OmeZarrStore.create(tmp_path / "none/a.zarr", layout)


def test_open_refuses_what_is_no_such_store(tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_text("text")
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(3, 4, 5), dtype="uint8")
    OmeZarrStore.create(tmp_path / "foreign.zarr", layout_for(20, 20))
    group = tmp_path / "foreign.zarr/zarr.json"
    described = json.loads(group.read_text())
    del described["attributes"]["urst_tiles"]
    group.write_text(json.dumps(described))
    OmeZarrStore.create(tmp_path / "lacking.zarr", layout_for(20, 20))
    (tmp_path / "lacking.zarr/1/zarr.json").unlink()
    OmeZarrStore.create(tmp_path / "garbled.zarr", layout_for(20, 20))
    (tmp_path / "garbled.zarr/zarr.json").write_text("{")
    for name in ("file", "empty", "group", "array", "foreign", "lacking", "garbled"):
        with pytest.raises(StoreError, match=rf"{name}\.zarr is not a store of this program \(.+\)") as caught:
            OmeZarrStore.open(tmp_path / f"{name}.zarr")
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"none\.zarr does not exist"):
        OmeZarrStore.open(tmp_path / "none.zarr")


def test_wrong_shards_and_windows_are_refused(tmp_path: Path) -> None:
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout_for(50, 40))
    right = np.zeros((3, 32, 32), np.uint8)
    with pytest.raises(InputError, match=r"takes \(3, 32, 32\) uint8, not \(3, 32, 31\) uint8"):
        store.write_shard(0, 0, 0, right[:, :, :31])
    with pytest.raises(InputError, match=r"takes .* uint8, not .* uint16"):
        store.write_shard(0, 0, 0, right.astype(np.uint16))
    with pytest.raises(InputError, match=r"takes \(3, 8, 18\) uint8"):
        store.write_shard(0, 1, 1, right)
    for row, col in [(2, 0), (0, 2), (-1, 0), (0, -1)]:
        with pytest.raises(InputError, match=f"50 x 40 pixels, has no shard {row},{col}"):
            store.write_shard(0, row, col, right)
        with pytest.raises(InputError, match="has no shard"):
            store.has_shard(0, row, col)
    for level in (-1, 3):
        with pytest.raises(InputError, match=f"has levels 0 to 2, not {level}"):
            store.read(level, Window(0, 0, 1, 1))
    with pytest.raises(InputError, match=r"window 40,0,11,1 reaches outside level 0 of .*: 50 x 40 pixels"):
        store.read(0, Window(40, 0, 11, 1))
    assert not store.has_shard(0, 0, 0)


def test_attributes_are_kept_and_the_stores_own_protected(tmp_path: Path) -> None:
    layout = layout_for(20, 20, icc_profile=b"\x00\xff", resolution=(11.811, 23.5), name="Straße")
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout, attributes={"run": {"halo": 32}})
    attributes = OmeZarrStore.open(tmp_path / "a.zarr").attributes
    assert attributes == store.attributes
    assert attributes["run"] == {"halo": 32}
    assert attributes["urst_tiles"]["name"] == "Straße"
    for name in ("ome", "urst_tiles"):
        with pytest.raises(InputError, match=name):
            OmeZarrStore.create(tmp_path / "b.zarr", layout, attributes={name: 1})
    assert not (tmp_path / "b.zarr").exists()


def test_a_chunk_beyond_the_codecs_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 2 GiB"):
        OmeZarrStore.create(tmp_path / "a.zarr", StoreLayout(10, 10, 4, "uint16", 20_000, (20_000, 20_000)))


def test_levels_end_when_a_chunk_holds_them() -> None:
    assert level_sizes(layout_for(1, 1)) == ((1, 1),)
    assert level_sizes(layout_for(16, 16)) == ((16, 16),)
    assert level_sizes(layout_for(17, 1)) == ((17, 1), (9, 1))
    assert level_sizes(layout_for(67, 33)) == ((67, 33), (34, 17), (17, 9), (9, 5))


def test_partials_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 50))
    before = sorted(tmp_path.rglob("*"))
    for litter in ("a.zarr/0/c/0/0/1.0123.partial", "a.zarr/2/c/0/0/0.ab.partial"):
        (tmp_path / litter).write_bytes(b"half")
    store.clean_partials()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_functions_take_any_store() -> None:
    """Pyramid and export use only what the protocol promises."""
    store, pixels = finished_store("memory://protocol/a.zarr", layout_for(40, 40))

    class Bare:
        layout, levels, attributes = store.layout, store.levels, store.attributes
        write_shard, write_strips = store.write_shard, store.write_strips
        has_shard, read = store.has_shard, store.read

    with tempfile.TemporaryDirectory() as folder:
        build_pyramid(Bare())
        export_bigtiff(Bare(), Path(folder) / "a.tif")
    np.testing.assert_array_equal(store.read(0, Window(0, 0, 40, 40)), pixels)

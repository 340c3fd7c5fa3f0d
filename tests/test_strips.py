"""A shard's work in strips, and windows of it that are run at the same time."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc

from tests.support import holding, picture, tree
from urst_tiles import Window, load_network, open_source, plan
from urst_tiles.buffers import ShardBuffers
from urst_tiles.engines import Piece, TorchEngine
from urst_tiles.engines.choosing import most_calls
from urst_tiles.errors import InputError, SourceError, StoreError
from urst_tiles.estimating import store_layout
from urst_tiles.geometry import plan_tiles
from urst_tiles.networks.untrained import untrained
from urst_tiles.shards import process_shard, source_crc
from urst_tiles.sources.base import Pixels
from urst_tiles.stores import OmeZarrStore, StoreLayout, encoding
from urst_tiles.stores.encoding import ChunkEncoder, encode_shard
from urst_tiles.strips import crc32

IDENTITY = load_network("identity")


def engine() -> TorchEngine:
    return TorchEngine(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")


@given(st.binary(max_size=300), st.integers(0, 300), st.sampled_from(["u1", "<u2", ">u2"]))
def test_checksums_are_zlibs_in_parts_too(data: bytes, cut: int, dtype: str) -> None:
    values = np.frombuffer(data[: len(data) // 2 * 2], dtype)
    assert crc32(values) == zlib.crc32(values.tobytes())
    assert crc32(values[cut:], crc32(values[:cut])) == crc32(values)
    assert crc32(values[::2]) == zlib.crc32(values[::2].tobytes())


class Together(TorchEngine):
    """Waits until so many calls have come."""

    def __init__(self, calls: int) -> None:
        super().__init__(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")
        self.barrier = threading.Barrier(calls, timeout=60)

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        self.barrier.wait()
        super().run(pieces, on_taken)


@pytest.fixture
def small_strips() -> Iterator[None]:
    with patch("urst_tiles.strips._LEAST_PIXELS", 1), patch("urst_tiles.strips._LEAST_ROWS", 8):
        yield


@pytest.mark.parametrize("region", [None, Window(5, 9, 71, 50)])
@pytest.mark.usefixtures("small_strips")
def test_strips_make_what_a_shard_at_once_makes(tmp_path: Path, region: Window | None) -> None:
    source = open_source(picture(90, 110, 4))
    tiles = plan_tiles(110, 90, window=24, halo=4, stride=1, region=region)
    layout, reports = store_layout(source.info, tiles), {}
    for name, least in (("strips", 1), ("whole", 1 << 20)):
        store = OmeZarrStore.create(tmp_path / name, layout)
        with patch("urst_tiles.strips._LEAST_PIXELS", least):
            buffers = ShardBuffers()  # of all shards: what one leaves in them is not for the next
            reports[name] = [process_shard(shard, source, engine(), store, batch=1, buffers=buffers) for shard in tiles]
    assert tree(tmp_path / "strips") == tree(tmp_path / "whole")
    assert [r.source_crc for r in reports["strips"]] == [r.source_crc for r in reports["whole"]]
    assert [r.source_crc for r in reports["strips"]] == [source_crc(source, shard) for shard in tiles]
    found = np.asarray(zarr.open_group(tmp_path / "strips", mode="r")["0"])
    np.testing.assert_array_equal(found, picture(90, 110, 4)[tiles.region.slices].transpose(2, 0, 1))


@pytest.mark.usefixtures("small_strips")
def test_a_shard_whose_first_strips_are_empty_is_written_whole_and_an_empty_one_not_at_all(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[50:, 40:] = 200
    source = open_source(pixels)
    tiles = plan_tiles(64, 64, window=8, halo=0, stride=1)
    store = OmeZarrStore.create(tmp_path / "a", store_layout(source.info, tiles))
    reports = [process_shard(shard, source, engine(), store, batch=1) for shard in tiles]
    assert [report.empty for report in reports] == [*[True] * 6, False, False]
    assert sorted(store.shards(0)) == [(1, 2), (1, 3)]
    np.testing.assert_array_equal(store.read(0, Window(0, 0, 64, 64)), pixels.transpose(2, 0, 1))


def test_windows_are_run_at_the_same_time_and_told_of_by_one_thread(tmp_path: Path) -> None:
    source, tiles = open_source(picture(64, 32)), plan_tiles(32, 64, window=16, halo=0, stride=1)
    store = OmeZarrStore.create(tmp_path / "a", store_layout(source.info, tiles))
    told, threads = list[int](), set[int]()

    def on_tiles(pixels: int) -> None:
        told.append(pixels)
        threads.add(threading.get_ident())

    # Four calls wait for each other: with fewer at the same time none would end.
    process_shard(tiles[0], source, Together(4), store, batch=1, calls=4, on_tiles=on_tiles)
    assert sum(told) == 64 * 32
    assert threads == {threading.get_ident()}
    np.testing.assert_array_equal(store.read(0, Window(0, 0, 32, 64)), picture(64, 32).transpose(2, 0, 1))


def test_an_error_of_one_call_is_the_shards(tmp_path: Path) -> None:
    class Failing(TorchEngine):
        def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
            raise MemoryError("no more")

    source, tiles = open_source(picture(64, 64)), plan_tiles(64, 64, window=16, halo=0, stride=1)
    store = OmeZarrStore.create(tmp_path / "a", store_layout(source.info, tiles))
    failing = Failing(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")
    with pytest.raises(MemoryError, match="no more"):
        process_shard(tiles[0], source, failing, store, batch=1, calls=2)
    assert not list((tmp_path / "a" / "0").rglob("*partial*"))
    assert not store.has_shard(0, 0, 0)


def test_a_budget_that_is_short_takes_calls_before_anything_else() -> None:
    raster, network = np.zeros((3000, 3000, 3), np.uint8), untrained(width=8, seed=1)
    with holding(), patch("urst_tiles.fitting.most_calls", lambda *_: 2):
        free = plan(raster, network, time_it=False, engine="torch")
        tight = plan(raster, network, time_it=False, engine="torch", memory=free.memory.bytes - 1, window=1064)
        assert (free.calls, free.in_flight) == (2, 2)
        assert (tight.calls, tight.in_flight, tight.tiles) == (1, 2, free.tiles)
        one = plan(np.zeros((900, 900, 3), np.uint8), network, time_it=False, engine="torch")
    assert one.calls == 1  # there is one window
    assert plan(raster, network, time_it=False, engine="torch").calls == 1


def test_processes_share_the_processor() -> None:
    with patch("urst_tiles.engines.choosing.torch.get_num_threads", lambda: 4):
        for engine in ("openvino", "llvm"):
            assert [most_calls(engine, processes) for processes in (1, 2, 3, 8)] == [2, 2, 1, 1]
        assert most_calls("torch") == 1


LAYOUT = StoreLayout(width=40, height=50, bands=3, dtype="uint8", chunk=8, shard=(32, 32))


def file_of(strips: Iterable[Any], encoder: ChunkEncoder | None = None) -> bytes:
    """Each part stands until the next is asked for."""
    return b"".join(bytes(part) for part in encode_shard(LAYOUT, strips, encoder))


@given(st.lists(st.integers(1, 32), min_size=1, max_size=32).filter(lambda rows: sum(rows) >= 32))
@settings(max_examples=30, deadline=None)
def test_however_a_shard_is_cut_into_strips_its_file_is_the_same(heights: list[int]) -> None:
    pixels = picture(32, 32).transpose(2, 0, 1)
    borders = [0, *np.minimum(np.cumsum(heights), 32).tolist()]
    strips = [pixels[:, first:last] for first, last in pairwise(borders) if first < last]
    assert file_of(strips) == file_of([pixels])


def test_chunks_are_compressed_while_the_next_strip_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_SMALL", 0)
    monkeypatch.setattr(encoding, "_WORKERS", 4)  # a row of chunks
    pixels = picture(32, 32).transpose(2, 0, 1)
    wanted = file_of([pixels])
    asked, encoder, compressed = threading.Event(), ChunkEncoder(LAYOUT), encoding.compressed

    def waiting(*given: Any) -> Any:
        assert asked.wait(60)
        return compressed(*given)

    monkeypatch.setattr(encoding, "compressed", waiting)

    def strips() -> Iterator[Any]:
        strip = pixels[:, :8].copy()
        yield strip
        strip[:] = 0  # nothing of it is held
        asked.set()
        yield pixels[:, 8:]

    assert file_of(strips(), encoder) == wanted


def test_strips_that_do_not_add_up_leave_nothing(tmp_path: Path) -> None:
    store = OmeZarrStore.create(tmp_path / "a", LAYOUT)
    good = np.ones((3, 16, 32), np.uint8)
    for strips in (
        [good],
        [good, good, good],
        [good, good[:, :, :31]],
        [good, good.astype(np.uint16)],
        [good, good[0]],
    ):
        with pytest.raises(InputError, match=r"shard 0,0 of level 0 of .* takes \(3, 32, 32\) uint8, not"):
            store.write_strips(0, 0, 0, cast("list[Pixels]", strips))
    assert not store.has_shard(0, 0, 0)
    assert not list((tmp_path / "a" / "0").rglob("*partial*"))


@pytest.mark.parametrize("error", [SourceError("a bad sector"), OSError(5, "the raster's disk is gone")])
def test_an_error_of_who_makes_the_strips_is_not_the_stores(tmp_path: Path, error: Exception) -> None:
    store = OmeZarrStore.create(tmp_path / "a", LAYOUT)

    def strips() -> Iterator[Pixels]:
        yield np.ones((3, 16, 32), np.uint8)
        raise error

    with pytest.raises(type(error)) as caught:
        store.write_strips(0, 0, 0, strips())
    assert caught.value is error
    assert not isinstance(caught.value, StoreError)
    assert not store.has_shard(0, 0, 0)
    assert not list((tmp_path / "a" / "0").rglob("*partial*"))


@pytest.mark.parametrize("chunk", [8, 512])  # compressed by this thread, and by several
def test_nothing_of_a_strip_is_held_while_the_next_is_made(tmp_path: Path, chunk: int) -> None:
    side = 4 * chunk
    store = OmeZarrStore.create(tmp_path / "a", StoreLayout(side, side, 3, "uint8", chunk, (side, side)))
    alive = list[bool]()

    def strips() -> Iterator[Pixels]:
        last: weakref.ref[Any] | None = None
        for _ in range(4):
            alive.append(last is not None and last() is not None)
            strip = np.ones((3, chunk, side), np.uint8)
            last = weakref.ref(strip)
            yield strip
            del strip

    store.write_strips(0, 0, 0, strips())
    assert alive == [False] * 4


def test_while_the_first_strip_is_made_nothing_stands_there(tmp_path: Path) -> None:
    store = OmeZarrStore.create(tmp_path / "a", LAYOUT)
    seen = list[int]()

    def strips() -> Iterator[Pixels]:
        for _ in range(2):
            seen.append(len(list((tmp_path / "a" / "0").rglob("*partial*"))))
            yield np.ones((3, 16, 32), np.uint8)

    store.write_strips(0, 0, 0, strips())
    assert seen == [0, 1]
    assert store.has_shard(0, 0, 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_chunks_are_compressed_to_memory_that_is_used_again(
    dtype: Literal["uint8", "uint16"], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_SMALL", small)
    layout = replace(LAYOUT, dtype=dtype)
    encoder, codec = ChunkEncoder(layout), Blosc()
    # Noise, which takes more than its own size: Blosc's header.
    noise = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 32, 32), dtype)
    for pixels in (noise, np.zeros_like(noise), noise):
        rows = [pixels[:, row : row + 8] for row in range(0, 32, 8)]
        found = {(row, col): bytes(data) for row, col, data in encoder.chunks(rows)}
        assert set(found) == set(product(range(4), range(4)))
        for (row, col), data in found.items():
            chunk = np.frombuffer(codec.decode(data), dtype).reshape(3, 8, 8)
            np.testing.assert_array_equal(chunk, rows[row][:, :, 8 * col : 8 * col + 8])
    assert 1 <= len(encoder._rooms._free) <= encoding._WORKERS + 1

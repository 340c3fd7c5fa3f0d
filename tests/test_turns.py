"""Shards in flight take turns: one strip's windows after another's, and who waits holds next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st

from tests.sources_support import tiled_tiff
from tests.support import picture, tree
from urst_tiles import Window, load_network, open_source
from urst_tiles.engines import Piece, TorchEngine
from urst_tiles.estimating import store_layout
from urst_tiles.geometry import plan_tiles
from urst_tiles.shards import process_shard
from urst_tiles.sources.arrays import ArraySource
from urst_tiles.sources.base import Pixels, let_go, read_into
from urst_tiles.sources.vips import VipsSource
from urst_tiles.stores import OmeZarrStore
from urst_tiles.strips import Rows
from urst_tiles.turns import NotBegun, Turns, under_way

IDENTITY = load_network("identity")
LONG = 60
"""Seconds after which a test that waits for another thread has failed."""


@pytest.fixture
def small_strips() -> Iterator[None]:
    with patch("urst_tiles.strips._LEAST_PIXELS", 1), patch("urst_tiles.strips._LEAST_ROWS", 8):
        yield


def begin(work: Any) -> tuple[threading.Thread, threading.Event]:
    """A thread, and what is set once its work is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, done


def test_no_more_shards_hold_pixels_than_are_let() -> None:
    turns = Turns(2, shards=2)
    leave = threading.Event()

    def another() -> None:
        with turns.shard():
            assert leave.wait(LONG)

    with turns.shard():
        _, second = begin(another)
        with ThreadPoolExecutor(1) as pool:
            third = pool.submit(another)
            assert not second.wait(0.05)
            assert not third.done()
            leave.set()
            third.result(LONG)
    without = Turns(None, shards=1)
    with without.shard(), without.shard():  # no turns, no limit
        pass


def test_at_the_end_no_shard_begins_and_those_that_have_are_finished() -> None:
    turns = Turns(2, shards=1)
    with ThreadPoolExecutor(1) as pool:
        with turns.shard():
            waiting = pool.submit(turns.shard().__enter__)
            turns.end()
            with turns.strip():  # the one that has begun goes on
                pass
        with pytest.raises(NotBegun):
            waiting.result(LONG)
    with pytest.raises(NotBegun), turns.shard():
        pass
    assert turns._shards.acquire(blocking=False)  # type: ignore[union-attr]  # nobody holds the place


def test_one_shard_more_is_under_way_where_they_take_turns() -> None:
    assert (under_way(2, 2), under_way(2, 1)) == (3, 2)


def test_a_turn_is_one_strips_and_ends_once() -> None:
    turns = Turns(2)

    def another() -> None:
        with turns.strip():
            pass

    with turns.strip() as end:
        thread, done = begin(another)
        assert not done.wait(0.05)
        ender, _ = begin(end)  # by another thread
        ender.join(LONG)
        assert done.wait(LONG)
        thread.join(LONG)
        with turns.strip():
            end()  # has ended: it does not end who has the turn now
            _, third = begin(another)
            assert not third.wait(0.05)
    assert third.wait(LONG)


def test_a_strip_that_fails_gives_its_turn_away() -> None:
    turns = Turns(1)
    for context in (turns.strip, turns.call):

        def failing(context: Any = context) -> None:
            with context():
                raise MemoryError

        with pytest.raises(MemoryError):
            failing()
    _, done = begin(lambda: process(turns))
    assert done.wait(LONG)


def process(turns: Turns) -> None:
    with turns.strip(), turns.call():
        pass


def test_no_more_calls_than_said_and_without_a_number_all_at_once() -> None:
    for calls, most in ((2, 2), (None, 4)):
        turns, inside, seen = Turns(calls), 0, list[int]()
        lock, barrier = threading.Lock(), threading.Barrier(most, timeout=LONG)

        def call(turns: Turns = turns, lock: Any = lock, barrier: Any = barrier, seen: Any = seen) -> None:
            nonlocal inside
            with turns.strip() as end:
                end()
                with turns.call():
                    with lock:
                        inside += 1
                        seen.append(inside)
                    barrier.wait()  # fewer at the same time would never end
                    with lock:
                        inside -= 1

        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(call) for _ in range(4)]:
                each.result(LONG)
        assert max(seen) <= most


def test_where_reading_takes_long_strips_are_read_ahead() -> None:
    turns, found = Turns(2), list[bool]()
    for read, run in ((0.0, 0.0), (1.0, 2.0), (0.1, 10.0)):
        turns.learn(read, run)
        found.append(turns.reads_ahead)
    assert found == [False, True, False]
    assert Turns().reads_ahead


class Watched(ArraySource):
    """Reports what is read."""

    def __init__(self, pixels: Pixels, told: list[str]) -> None:
        super().__init__(pixels)
        self.told = told

    def read(self, window: Window) -> Pixels:
        self.told.append("read")
        return super().read(window)


class Slow(TorchEngine):
    """Its first call lasts until it is let go on."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")
        self.told, self.began, self.go_on = told, threading.Event(), threading.Event()

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        self.told.append("run")
        self.began.set()
        assert self.go_on.wait(LONG)
        super().run(pieces, on_taken)


@pytest.mark.parametrize("ahead", [False, True])
def test_who_waits_for_the_turn_has_read_nothing_unless_it_reads_ahead(tmp_path: Path, *, ahead: bool) -> None:
    told = list[str]()
    pixels = picture(64, 64)
    source, engine, turns = Watched(pixels, told), Slow(told), Turns(1)
    if ahead:
        turns.learn(read=9.0, run=1.0)
    tiles = plan_tiles(64, 64, window=16, halo=0, stride=1)
    assert tiles.grid == (1, 2)
    store = OmeZarrStore.create(tmp_path / "a", store_layout(source.info, tiles))

    def shard(index: int) -> None:
        process_shard(tiles[index], source, engine, store, batch=1, turns=turns)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shard, 0)
        assert engine.began.wait(LONG)
        before = told.count("read")
        second = pool.submit(shard, 1)
        if ahead:
            while told.count("read") == before:
                assert not second.done()
        else:
            with pytest.raises(TimeoutError):
                second.result(0.1)
            assert told.count("read") == before
        engine.go_on.set()
        first.result(LONG)
        second.result(LONG)
    np.testing.assert_array_equal(store.read(0, Window(0, 0, 64, 64)), pixels.transpose(2, 0, 1))


@pytest.mark.usefixtures("small_strips")
def test_turns_change_no_pixel(tmp_path: Path) -> None:
    source = open_source(picture(90, 210, 4))
    tiles = plan_tiles(210, 90, window=24, halo=4, stride=1)
    layout = store_layout(source.info, tiles)
    engine = TorchEngine(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")
    for name, turns in (("with", Turns(2)), ("without", None)):
        store = OmeZarrStore.create(tmp_path / name, layout)
        with ThreadPoolExecutor(3) as pool:
            work = [
                pool.submit(process_shard, shard, source, engine, store, batch=2, calls=2, turns=turns)
                for shard in tiles
            ]
            for each in work:
                each.result(LONG)
    assert tree(tmp_path / "with") == tree(tmp_path / "without")


@given(st.data())
def test_rows_that_are_left_are_gone_and_the_others_stay(data: st.DataObject) -> None:
    pixels = picture(60, 20)
    rows = Rows(ArraySource(pixels), Window(3, 2, 15, 55))
    first = 2
    while first < 57:
        end = data.draw(st.integers(first + 1, 57))
        rows.of(Window(3, first, 15, end - first))
        col = data.draw(st.integers(3, 17))
        part = Window(col, first, 18 - col, end - first)
        np.testing.assert_array_equal(rows.cut(part), pixels[part.slices])
        held = rows._held.shape[0]
        left = data.draw(st.integers(first, end))
        rows.leave(left)
        assert rows._held.shape[0] == held - (left - first)
        np.testing.assert_array_equal(rows._held, pixels[left : left + len(rows._held), 3:18])
        assert len(rows._buffers.rows._free) == 1  # what all of them stood in is for others
        first = max(left, first + 1)
    rows.close()
    assert len(rows._buffers.kept._free) <= 1
    assert not len(rows._held)
    assert all(len(memory) <= 55 * 15 * 3 for memory in (*rows._buffers.rows._free, *rows._buffers.kept._free))


def test_windows_are_read_to_where_they_are_wanted(tmp_path: Path) -> None:
    import tifffile

    pixels = picture(100, 120)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), photometric="rgb")
    window = Window(7, 9, 80, 70)
    for source in (VipsSource(tmp_path / "a.tif"), ArraySource(pixels)):
        out = np.zeros((72, 90, 3), np.uint8)
        read_into(source, window, out[1:71, 5:85])  # no whole block of memory
        np.testing.assert_array_equal(out[1:71, 5:85], pixels[window.slices])
        out[1:71, 5:85] = 0
        assert not out.any()
        let_go(source)
        np.testing.assert_array_equal(source.read(window), pixels[window.slices])


@pytest.mark.parametrize("stays_open", [True, False])
def test_a_reader_that_lets_go_keeps_no_tile_and_of_files_only_a_tiff_open(tmp_path: Path, *, stays_open: bool) -> None:
    pixels, path = picture(100, 120), tmp_path / ("a.tif" if stays_open else "a.v")
    if stays_open:
        tiled_tiff(path, pixels, tile=32)
    else:
        pyvips.Image.new_from_array(pixels).write_to_file(path)
    source = VipsSource(path)
    source._windows.read(Window(0, 0, 50, 50))
    assert source._windows._local.reader.tiles
    let_go(source)
    reader = source._windows._local.reader
    assert (reader is not None) == stays_open
    assert reader is None or not reader.tiles
    np.testing.assert_array_equal(source.read(Window(0, 0, 50, 50)), pixels[:50, :50])

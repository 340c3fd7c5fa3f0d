"""The task body: read a shard strip by strip, run its windows in batches, crop their cores, write the shard."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import reduce
from itertools import chain

import numpy as np

from urst_tiles.allocator import return_free_pages
from urst_tiles.buffers import ShardBuffers
from urst_tiles.engines.base import Engine
from urst_tiles.geometry import Shard, Tile, Window
from urst_tiles.sources.base import Pixels, Source, let_go
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.sources.masked import Masked
from urst_tiles.stores.base import Store
from urst_tiles.strips import Rows, Strip, TilesCallback, crc32, picture_shape, run_tiles, strips_of
from urst_tiles.turns import Turns

__all__ = ["ShardReport", "is_hidden", "process_shard", "source_crc"]

_ZEROS = np.zeros(1 << 20, np.uint8)
"""To take a checksum of, as often as needed."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a task sends back: numbers, never pixels."""

    index: int
    pixels: int
    source_crc: int
    # CRC-32 of the pixels read, core and halo; see source_crc()
    target_crc: int
    # CRC-32 of the pixels written, strip by strip, or of the zeros that stand for an empty shard
    seconds_read: float
    seconds_run: float
    seconds_written: float
    empty: bool = False
    # nothing was run and nothing was written: all is transparent and 0, as the store reads where nothing stands
    batch: int = 0
    # windows run at a time in the end: fewer than asked for where those were too much for a GPU; 0 where none were run
    device_peak: int = 0
    # the most bytes of a GPU that the worker has held so far, CUDA's own context left out
    process: int = 0
    # number of the process that ran it; 0 where nobody asks for it
    memory: int = 0
    # the most bytes that have been resident of that process

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.seconds_read + self.seconds_run + self.seconds_written


def process_shard(
    shard: Shard,
    source: Source,
    engine: Engine,
    store: Store,
    *,
    batch: int,
    calls: int = 1,
    turns: Turns | None = None,
    buffers: ShardBuffers | None = None,
    on_tiles: TilesCallback | None = None,
    colours: Colours = AS_THEY_ARE,
) -> ShardReport:
    """Produce one shard of the store. Running it twice writes the same bytes.

    Threads may do so at the same time: while one shard computes, another reads and a third writes. A shard that comes
    out transparent and 0 in every band is not written. The engine is given so many ``calls`` at the same time;
    ``turns`` and ``buffers`` are those of all shards that the process has in flight.
    """
    started = time.perf_counter()
    if is_hidden(source, shard.tiles):
        return _hidden_report(shard, source, store, time.perf_counter() - started, on_tiles)
    work = _Work(shard, source, engine, batch, calls, turns, buffers, on_tiles, colours)
    with closing(work.rows), closing(work.strips()) as made:
        strips = _unless_empty(made) if source.info.alpha else made
        if strips is not None:
            store.write_strips(0, shard.row, shard.col, strips)
    return ShardReport(
        index=shard.index,
        pixels=shard.core.area,
        source_crc=work.rows.crc,
        target_crc=work.target_crc,
        seconds_read=work.seconds_read,
        seconds_run=work.seconds_run,
        seconds_written=time.perf_counter() - started - work.seconds_read - work.seconds_run,
        empty=strips is None,
        batch=min(batch, engine.limit or batch),
        device_peak=engine.device_peak or 0,
    )


class _Work:
    """A shard being made: its strips, and what there is to report of them. Used once."""

    def __init__(
        self,
        shard: Shard,
        source: Source,
        engine: Engine,
        batch: int,
        calls: int,
        turns: Turns | None,
        buffers: ShardBuffers | None,
        on_tiles: TilesCallback | None,
        colours: Colours,
    ) -> None:
        self._shard, self._source, self._engine = shard, source, engine
        self._batch, self._calls, self._on_tiles, self._colours = batch, calls, on_tiles, colours
        buffers = buffers or ShardBuffers()
        self._turns, self._pictures = turns or Turns(), buffers.pictures
        self.rows = Rows(source, shard.window, buffers)
        self.target_crc = 0
        self.seconds_read = self.seconds_run = 0.0

    def strips(self) -> Generator[Pixels]:
        """(bands, height, width) of one strip after the other, each until the next one is asked for."""
        strips = list(strips_of(self._shard.tiles, self._batch))
        following = (*(strip.window.row_off for strip in strips[1:]), strips[-1].window.row_end)
        info, started = self._source.info, time.perf_counter()
        with self._turns.shard():
            self.seconds_run += time.perf_counter() - started
            for strip, next_row in zip(strips, following, strict=True):
                with self._pictures.array(picture_shape(strip.core, info), info.dtype) as picture:
                    self._make(strip, next_row, picture)
                    self.target_crc = crc32(picture, self.target_crc)
                    yield picture

    def _make(self, strip: Strip, next_row: int, picture: Pixels) -> None:
        """One strip's; of what was read only what stands from ``next_row`` on is held afterwards."""
        with ExitStack() as stack:
            ahead = self._turns.reads_ahead
            read = self._read(strip) if ahead else 0.0
            started = time.perf_counter()
            end_turn = stack.enter_context(self._turns.strip())
            begun = time.perf_counter()
            if not ahead:
                read = self._read(strip)

            def on_taken() -> None:
                self.rows.leave(next_row)
                end_turn()

            source = self._source
            run_tiles(
                strip.tiles,
                strip.core,
                self.rows.cut,
                source.info,
                self._engine,
                self._batch,
                self._on_tiles,
                calls=self._calls,
                turns=self._turns,
                on_taken=on_taken,
                blank=isinstance(source, Masked),
                colours=self._colours,
                out=picture,
            )
            ended = time.perf_counter()
        self._turns.learn(read, ended - begun - (0.0 if ahead else read))
        self.seconds_read += read
        self.seconds_run += ended - started - (0.0 if ahead else read)

    def _read(self, strip: Strip) -> float:
        """Seconds that it took."""
        started = time.perf_counter()
        self.rows.of(strip.window)
        let_go(self._source)
        return_free_pages()
        return time.perf_counter() - started


def _unless_empty(strips: Iterator[Pixels]) -> Iterator[Pixels] | None:
    """The same strips, or None where all of them are 0 everywhere."""
    shapes = list[tuple[int, ...]]()
    for strip in strips:
        if strip.any():
            zeros: Iterator[Pixels] = (np.zeros(shape, strip.dtype) for shape in shapes)
            return chain(zeros, (strip,), strips)
        shapes.append(strip.shape)
    return None


def is_hidden(source: Source, tiles: Sequence[Tile]) -> bool:
    """Whether a source's mask hides these tiles: nothing else of them needs to be read then, and they come out as 0."""
    return isinstance(source, Masked) and not source.visible(reduce(Window.hull, (tile.cell for tile in tiles)))


def source_crc(source: Source, shard: Shard) -> int:
    """CRC-32 of what :func:`process_shard` reads for a shard, read again: of the shard's window, or, where a mask hides
    the shard, of the zeros its core reads as."""
    if is_hidden(source, shard.tiles):
        return _crc_of_zeros(shard.core.area * source.info.bytes_per_pixel)
    with closing(Rows(source, shard.window)) as rows:
        for strip in strips_of(shard.tiles, 1):
            rows.of(strip.window)
        return rows.crc


def _hidden_report(
    shard: Shard, source: Source, store: Store, seconds: float, on_tiles: TilesCallback | None
) -> ShardReport:
    """The report of a shard that a mask hides."""
    area = shard.core.area
    if on_tiles is not None:
        on_tiles(area)
    written = area * store.layout.bands * np.dtype(store.layout.dtype).itemsize
    return ShardReport(
        index=shard.index,
        pixels=area,
        source_crc=_crc_of_zeros(area * source.info.bytes_per_pixel),
        target_crc=_crc_of_zeros(written),
        seconds_read=seconds,
        seconds_run=0.0,
        seconds_written=0.0,
        empty=True,
    )


def _crc_of_zeros(count: int) -> int:
    """CRC-32 of so many bytes of 0, without holding them."""
    crc = 0
    for start in range(0, count, len(_ZEROS)):
        crc = crc32(_ZEROS[: count - start], crc)
    return crc

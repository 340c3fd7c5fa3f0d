"""Windows, tiles and shards: the plan of a run, in integers only.

One axis of a raster, with core = window - 2·halo::

    raster   0---------------------------------------------------------W
    cores    |  core 0  |  core 1  |  core 2  |  core 3  | core 4 (rest) |
    window 1      [halo |  core 1  | halo]
    window 0 |  core 0  | halo]                    clipped, never padded, at the raster's border
    shards   |  shard 0 = cores 0, 1 |  shard 1 = cores 2, 3 | shard 2     |

The grid of cores is fixed to the raster's origin. A region is a part of the raster: it has shards of its own, counted
from the region's corner, but every tile keeps the window that the whole raster's grid gives it. That is why a region
comes out byte for byte as the same part of the full result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from urst_tiles.errors import InputError

__all__ = ["SHARD_CORES", "Shard", "Tile", "TilePlan", "Window", "default_window", "plan_tiles"]

SHARD_CORES = 2
"""Cores across a shard, where nothing else is said; and always the chunks across its file. There are twice as many down
it: a shard is run row by row of cores, and what is held of it is as wide as the shard; but blocks of the raster's file
that lie under its lower edge are decoded for the next row of shards too, so that low shards would read more."""


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of pixels, half-open: columns from col_off up to col_end, rows from row_off up to row_end."""

    col_off: int
    # first column, in pixels from the raster's left edge
    row_off: int
    # first row, in pixels from the raster's top edge
    width: int
    # in pixels, at least 1
    height: int
    # in pixels, at least 1

    def __post_init__(self) -> None:
        if self.col_off < 0 or self.row_off < 0 or self.width < 1 or self.height < 1:
            raise InputError(f"a window needs offsets of at least 0 and sides of at least 1, not {self}")

    def __str__(self) -> str:
        return f"{self.col_off},{self.row_off},{self.width},{self.height}"

    @property
    def col_end(self) -> int:
        return self.col_off + self.width

    @property
    def row_end(self) -> int:
        return self.row_off + self.height

    @property
    def area(self) -> int:
        """In pixels."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns), to index an array whose first two axes are (y, x)."""
        return slice(self.row_off, self.row_end), slice(self.col_off, self.col_end)

    def intersect(self, other: Window) -> Window | None:
        """The common part, or None where there is none."""
        col, row = max(self.col_off, other.col_off), max(self.row_off, other.row_off)
        width, height = min(self.col_end, other.col_end) - col, min(self.row_end, other.row_end) - row
        return Window(col, row, width, height) if width > 0 and height > 0 else None

    def contains(self, other: Window) -> bool:
        return (
            self.col_off <= other.col_off
            and self.row_off <= other.row_off
            and other.col_end <= self.col_end
            and other.row_end <= self.row_end
        )

    def hull(self, other: Window) -> Window:
        """The smallest window that holds both."""
        col, row = min(self.col_off, other.col_off), min(self.row_off, other.row_off)
        return Window(col, row, max(self.col_end, other.col_end) - col, max(self.row_end, other.row_end) - row)

    def relative_to(self, origin: Window) -> Window:
        """The same rectangle counted from the corner of ``origin``, which must not lie right of or below it."""
        return Window(self.col_off - origin.col_off, self.row_off - origin.row_off, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Tile:
    """One window's work: the window that is read and run, and the core of it that is kept."""

    index: int
    # the tile's place in its shard, row-major
    core: Window
    # kept pixels, in raster coordinates
    window: Window
    # what the network sees, in raster coordinates
    cell: Window
    # the core before a region or a shard's border cut it, in raster coordinates

    @property
    def crop(self) -> Window:
        """Where the core lies inside the window."""
        return self.core.relative_to(self.window)

    @property
    def rim(self) -> int:
        """Pixels from the cell to the nearest edge of the window, whatever of the cell is kept: less than the halo at
        the raster's borders."""
        cell, window = self.cell, self.window
        before = (cell.col_off - window.col_off, cell.row_off - window.row_off)
        return min(*before, window.col_end - cell.col_end, window.row_end - cell.row_end)


@dataclass(frozen=True, slots=True)
class Shard:
    """A block of cores: the unit of scheduling, reading and writing."""

    index: int
    # row-major over the plan's shards
    row: int
    # the shard's place in the store's grid of shards
    col: int
    core: Window
    # the union of its tiles' cores, in raster coordinates
    tiles: tuple[Tile, ...]
    # row-major

    @property
    def window(self) -> Window:
        """Everything the tiles read: the hull of their windows, in raster coordinates."""
        first, last = self.tiles[0].window, self.tiles[-1].window
        return first.hull(last)


@dataclass(frozen=True, slots=True)
class TilePlan(Sequence[Shard]):
    """Shards of a raster or of a region of it. O(1): a shard is computed from its index.

    Law: the cores of all tiles of all shards partition ``region`` exactly, and every window's origin is a multiple of
    ``stride``.
    """

    width: int
    # of the raster, in pixels
    height: int
    window: int
    # side of an unclipped window, in pixels
    halo: int
    # rim that is thrown away, in pixels, a multiple of stride
    stride: int
    # in pixels: the network commutes with shifts by it
    region: Window
    # the part of the raster that is produced
    cores: int = SHARD_CORES
    # across a shard; there are twice as many down it

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"a raster of {self.width} x {self.height} pixels has nothing to stylize")
        if self.stride < 1 or self.halo < 0 or self.halo % self.stride or self.window % self.stride:
            raise InputError(
                f"window {self.window} and halo {self.halo} must be multiples of the network's stride {self.stride}"
            )
        if self.core < self.stride:
            raise InputError(
                f"window {self.window} leaves no core: the halo is {self.halo}. "
                f"Use a window of {self.stride + 2 * self.halo} or larger"
            )
        if self.cores < 1 or self.shard[0] % SHARD_CORES:
            raise InputError(f"a shard {self.shard[0]} px wide is no {SHARD_CORES} chunks across")
        if not Window(0, 0, self.width, self.height).contains(self.region):
            raise InputError(
                f"region {self.region} reaches outside the raster of {self.width} x {self.height} pixels; "
                "give COL,ROW,WIDTH,HEIGHT inside it"
            )

    @property
    def core(self) -> int:
        """Side of an unclipped core, in pixels."""
        return self.window - 2 * self.halo

    @property
    def shard(self) -> tuple[int, int]:
        """(width, height) of an unclipped shard, in pixels."""
        return self.cores * self.core, 2 * self.cores * self.core

    @property
    def chunk(self) -> int:
        """Side of a chunk of a shard's file, in pixels: the core, where there are as many of both."""
        return self.shard[0] // SHARD_CORES

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of shards."""
        width, height = self.shard
        return -(-self.region.height // height), -(-self.region.width // width)

    def __len__(self) -> int:
        rows, cols = self.grid
        return rows * cols

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        row, col = divmod(index, self.grid[1])
        core = self.core_of(index)
        return Shard(index, row, col, core, self.tiles_in(core))

    def __iter__(self) -> Iterator[Shard]:
        return (self[i] for i in range(len(self)))

    def core_of(self, index: int) -> Window:
        """The core of the shard 0 ≤ index < len(self), without its tiles."""
        row, col = divmod(index, self.grid[1])
        (width, height), region = self.shard, self.region
        col_off, row_off = region.col_off + col * width, region.row_off + row * height
        return Window(col_off, row_off, min(width, region.col_end - col_off), min(height, region.row_end - row_off))

    def tiles_in(self, part: Window) -> tuple[Tile, ...]:
        """The tiles of the raster's grid that touch ``part``, their cores clipped to it, row-major."""
        side = self.core
        found: list[Tile] = []
        for row in range(part.row_off // side, -(-part.row_end // side)):
            for col in range(part.col_off // side, -(-part.col_end // side)):
                cell = Window(
                    col * side,
                    row * side,
                    min(side, self.width - col * side),
                    min(side, self.height - row * side),
                )
                core = cell.intersect(part)
                if core is not None:  # always so: the ranges above are the cells that touch the part
                    found.append(Tile(len(found), core, self._window_of(cell), cell))
        return tuple(found)

    @property
    def tile_count(self) -> int:
        """Windows that are run, over all shards: a closed formula, like the next one."""
        cols, rows = self._runs
        return sum(run.count for run in cols) * sum(run.count for run in rows)

    @property
    def window_pixels(self) -> int:
        """Pixels that go through the network, halos included."""
        cols, rows = self._runs
        return self._axis_pixels(cols, self.width) * self._axis_pixels(rows, self.height)

    @property
    def inside_count(self) -> int:
        """Windows whose rim is the halo on all sides; none of them is clipped."""
        cols, rows = self._runs
        return self._axis_inside(cols, self.width) * self._axis_inside(rows, self.height)

    @property
    def overhead(self) -> float:
        """Pixels run through the network per pixel kept, at least 1."""
        return self.window_pixels / self.region.area

    def _window_of(self, cell: Window) -> Window:
        """The window of a cell of the grid: the cell and its halo, clipped at the raster's true borders."""
        col, row = max(cell.col_off - self.halo, 0), max(cell.row_off - self.halo, 0)
        return Window(
            col,
            row,
            min(cell.col_end + self.halo, self.width) - col,
            min(cell.row_end + self.halo, self.height) - row,
        )

    @property
    def _runs(self) -> tuple[tuple[_Cells, _Cells], tuple[_Cells, _Cells]]:
        """The cells that are run, along a row of cores and down a column of them."""
        part, (width, height) = self.region, self.shard
        return self._axis_runs(part.col_off, part.col_end, width), self._axis_runs(part.row_off, part.row_end, height)

    def _axis_runs(self, start: int, end: int, shard: int) -> tuple[_Cells, _Cells]:
        """The cells of the grid that are run between start and end along one axis, as two arithmetic series: every cell
        touched, and those that two shards share once more."""
        first, step = start // self.core, shard // self.core
        touched = _Cells(first, 1, -(-end // self.core) - first)
        # Shards begin where the region does. Off the grid, each border between two of them cuts a cell.
        borders = -(-(end - start) // shard) - 1 if start % self.core else 0
        return touched, _Cells(first + step, step, borders)

    def _axis_inside(self, runs: tuple[_Cells, _Cells], length: int) -> int:
        """Cells that have a halo before and behind them along one axis of ``length`` pixels."""
        first, end = -(-self.halo // self.core), (length - self.halo) // self.core
        return sum(run.within(first, end) for run in runs)

    def _axis_pixels(self, runs: tuple[_Cells, _Cells], length: int) -> int:
        """Sum of the windows' sides along one axis of ``length`` pixels."""
        side, halo = self.core, self.halo
        return sum(
            _clipped_sum((run.first + 1) * side + halo, run.step * side, run.count, length)
            - _raised_sum(run.first * side - halo, run.step * side, run.count)
            for run in runs
        )


@dataclass(frozen=True, slots=True)
class _Cells:
    """``count`` cells of the grid along one axis: first, first + step, …"""

    first: int
    step: int
    count: int

    def within(self, first: int, end: int) -> int:
        """Those from ``first`` to before ``end``."""

        def before(index: int) -> int:
            return min(max(-(-(index - self.first) // self.step), 0), self.count)

        return max(before(end) - before(first), 0)


def _clipped_sum(first: int, step: int, count: int, most: int) -> int:
    """Sum of min(first + i·step, most) over i < count; step is at least 1."""
    below = min(max(-(-(most - first) // step), 0), count)
    return below * first + step * (below * (below - 1) // 2) + (count - below) * most


def _raised_sum(first: int, step: int, count: int) -> int:
    """Sum of max(first + i·step, 0) over i < count; step is at least 1."""
    whole = count * first + step * (count * (count - 1) // 2)
    return whole - _clipped_sum(first, step, count, 0)


def default_window(halo: int, stride: int, window: int = 1064) -> int:
    """The window to use when none was asked for: ``window``, grown until the core is at least half of it.

    A smaller core would run more than four pixels for every pixel kept.
    """
    needed = max(window, 4 * halo, 2 * halo + stride)
    return -(-needed // stride) * stride


def plan_tiles(
    width: int,
    height: int,
    *,
    window: int,
    halo: int,
    stride: int,
    region: Window | None = None,
    cores: int = SHARD_CORES,
) -> TilePlan:
    """Plan the windows of a raster.

    Parameters are in pixels. ``window`` and ``halo`` must be multiples of ``stride``; ``region`` defaults to the
    whole raster; a shard has ``cores`` cores across and twice as many down.

    Raises:
        InputError: no core is left, a side is out of range, or the region reaches outside the raster.
    """
    if width < 1 or height < 1:
        raise InputError(f"a raster of {width} x {height} pixels has nothing to stylize")
    return TilePlan(width, height, window, halo, stride, region or Window(0, 0, width, height), cores)

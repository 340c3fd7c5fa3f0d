"""A store some of whose shards are empty: not written, because they are 0 everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import Store, StoreLayout

__all__ = ["SparseStore"]


class SparseStore:
    """A store that has its empty shards too, for those who ask whether it is whole before they read it.

    ``empty`` is told (level, row, col), whether that shard was left out because it is 0.
    """

    def __init__(self, store: Store, empty: Callable[[int, int, int], bool]) -> None:
        self._store, self._empty = store, empty

    @property
    def layout(self) -> StoreLayout:
        return self._store.layout

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        return self._store.levels

    @property
    def attributes(self) -> dict[str, Any]:
        return self._store.attributes

    def write_shard(self, level: int, row: int, col: int, pixels: Pixels) -> None:
        """See :meth:`urst_tiles.stores.base.Store.write_shard`."""
        self._store.write_shard(level, row, col, pixels)

    def write_strips(self, level: int, row: int, col: int, strips: Iterable[Pixels]) -> None:
        """See :meth:`urst_tiles.stores.base.Store.write_strips`."""
        self._store.write_strips(level, row, col, strips)

    def has_shard(self, level: int, row: int, col: int) -> bool:
        """Whether something stands there, or nothing needs to."""
        return self._store.has_shard(level, row, col) or self._empty(level, row, col)

    def read(self, level: int, window: Window) -> Pixels:
        """See :meth:`urst_tiles.stores.base.Store.read`."""
        return self._store.read(level, window)

"""The seam between a run and where its pixels go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.sources.geo import GeoTags

__all__ = ["Store", "StoreLayout"]


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Everything a store is created from."""

    width: int
    # in pixels
    height: int
    # in pixels
    bands: Literal[3, 4]
    # RGB, or RGB and alpha
    dtype: Literal["uint8", "uint16"]
    chunk: int
    # side of an inner chunk, in pixels: the plan's core
    shard: tuple[int, int]
    # (width, height) of a shard, in pixels: multiples of chunk
    icc_profile: bytes | None = None
    # verbatim from the source
    resolution: tuple[float, float] | None = None
    # pixels per millimetre, (x, y)
    geo: GeoTags | None = None
    # where it lies on the Earth
    name: str = ""
    # for people: what the picture is of

    def __post_init__(self) -> None:
        whole = min(self.width, self.height, self.chunk) > 0 and all(
            side >= self.chunk and side % self.chunk == 0 for side in self.shard
        )
        if not whole:
            raise InputError(f"a store needs sides of at least 1 and shards of whole chunks, not {self}")


class Store(Protocol):
    """A pyramid of arrays (bands, height, width) that is written in whole shards, each by one writer.

    Implementations pickle small (they carry a path) and open lazily; different shards may be written from different
    threads or processes at once.
    """

    @property
    def layout(self) -> StoreLayout: ...

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every level, full size first; each is the ceiling of half the one before."""
        ...

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes, JSON-able."""
        ...

    def write_shard(self, level: int, row: int, col: int, pixels: Pixels) -> None:
        """Write one whole shard: (bands, height, width), clipped at the array's far edges.

        Idempotent; on disk when it returns.

        Raises:
            StoreError: it cannot be written (a full disk, a missing right); the message says so and names the store.
        """
        ...

    def write_strips(self, level: int, row: int, col: int, strips: Iterable[Pixels]) -> None:
        """The same, from strips of (bands, some rows, width), top to bottom: the next is asked for when the last is
        encoded.

        Raises:
            StoreError: it cannot be written.
            Exception: what ``strips`` raises; nothing is written then.
        """
        ...

    def has_shard(self, level: int, row: int, col: int) -> bool:
        """Whether something stands where this shard is written. It does not say that it is whole."""
        ...

    def read(self, level: int, window: Window) -> Pixels:
        """Pixels of a window of a level: (bands, height, width)."""
        ...

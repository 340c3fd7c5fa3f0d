"""The seam between a finished store and the formats it is exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol, TypedDict, get_args

from urst_tiles.errors import InputError
from urst_tiles.stores.base import Store, StoreLayout

__all__ = [
    "EXPORT_MEMORY",
    "Compression",
    "ExportKeywords",
    "ExportOptions",
    "Exporter",
    "Progress",
    "TileFormat",
]

Compression = Literal["deflate", "zstd", "lzw", "none"]
TileFormat = Literal["jpeg", "png", "webp"]

Progress = Callable[[int, int], None]
"""Told (parts done, parts in all), tiles or rows; what it raises stops the export."""

EXPORT_MEMORY = 256 * 2**20
"""Pixels read from the store at once, in bytes."""


class ExportKeywords(TypedDict, total=False):
    """The fields of :class:`ExportOptions`, as keyword arguments of ``export``."""

    compression: Compression | None
    quality: int | None
    tile: int | None
    tile_format: TileFormat | None
    chunk: int | None
    shard: int | None
    codec: str | None
    zarr_format: Literal[2, 3] | None
    memory: int


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What can be chosen about an export; None is the format's own default.

    Raises:
        InputError: a value is out of range, whatever the format.
    """

    compression: Compression | None = None
    # of a TIFF's tiles, all lossless; deflate
    quality: int | None = None
    # of JPEG and WebP, 1 to 100; 90
    tile: int | None = None
    # side of a tile, in pixels: 512 in a TIFF, 254 in Deep Zoom
    tile_format: TileFormat | None = None
    # of Deep Zoom's tiles; jpeg, or png where there is alpha
    chunk: int | None = None
    # side of an OME-Zarr's chunks, in pixels; the store's
    shard: int | None = None
    # side of its shards, in pixels, a multiple of chunk; 0: none
    codec: str | None = None
    # of its chunks: "zstd", "blosc", "gzip" or "none", with a level like "zstd:5"
    zarr_format: Literal[2, 3] | None = None
    # 3 is OME-Zarr 0.5, 2 is OME-Zarr 0.4
    memory: int = EXPORT_MEMORY
    # how much is read from the store at once, in bytes; more decodes its chunks fewer times

    def __post_init__(self) -> None:
        for name, least in (("quality", 1), ("tile", 1), ("chunk", 1), ("shard", 0), ("memory", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.quality is not None and self.quality > 100:
            raise InputError(f"quality must be 1 to 100, not {self.quality}")
        _one_of("compression", self.compression, get_args(Compression))
        _one_of("tile_format", self.tile_format, get_args(TileFormat))
        _one_of("zarr_format", self.zarr_format, (2, 3))

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that are not left to the format."""
        named = (field.name for field in fields(self) if field.name != "memory")
        return frozenset(name for name in named if getattr(self, name) is not None)


class Exporter(Protocol):
    """A format that a finished store is written to. Holds no state."""

    @property
    def name(self) -> str:
        """What ``--format`` takes."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Lower case; the longest one that a target's name ends in decides."""
        ...

    @property
    def takes(self) -> frozenset[str]:
        """Names of the options that it knows."""
        ...

    @property
    def resumes(self) -> bool:
        """Whether an export that was stopped goes on; others are begun again."""
        ...

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:
        """Whether such a picture can be written at all; to be called before anything is.

        Returns:
            What will be changed or lost, one sentence each.

        Raises:
            InputError: it is too large, has alpha that the format has not, or an option does not fit.
        """
        ...

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        """
        Raises:
            StoreError: something stands there and is not to be replaced, or there is no folder to write to.
        """
        ...

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        """Upper bound of the memory, in bytes, that :meth:`write` takes."""
        ...

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        """Write it. The same store and options give the same bytes; the target's name appears when all is written.

        Raises:
            InputError: see :meth:`check`.
            StoreError: the target is there, a shard is missing, or reading or writing fails.
        """
        ...


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value is not None and value not in known:
        raise InputError(f"there is no {name} {value!r}: choose one of {', '.join(map(str, known))}")

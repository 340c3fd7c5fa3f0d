"""The directories of a BigTIFF, laid out before its pixels are written.

tifffile and libvips put a directory where the writing stands; a layout that begins with all of them is written here.
Only what such a file needs: little-endian, tiled, RGB or RGB and alpha, colours side by side.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urst_tiles.sources.geo import GeoTags

__all__ = ["Directory", "header_bytes", "header_size"]

_SHORT, _LONG, _RATIONAL, _UNDEFINED, _ASCII, _DOUBLE, _LONG8 = 3, 4, 5, 7, 2, 12, 16
_ITEM = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_ENTRY = 20
# bytes of a tag in its directory; values of more than 8 bytes stand after it
_START = 16
# bytes of the file's own header


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of the file: what it is, and where its tiles are."""

    width: int
    height: int
    bands: int
    bits: int
    # of a sample
    tile: int
    # side, in pixels
    compression: int
    # the tag's value
    reduced: bool = False
    # a smaller version of the first image
    software: str | None = None
    icc_profile: bytes | None = None
    resolution: tuple[float, float] | None = None
    # pixels per centimetre, (x, y)
    geo: GeoTags | None = None
    offsets: NDArray[np.uint64] = field(init=False)
    # of every tile in the file, filled in while they are written
    lengths: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("offsets", "lengths"):
            object.__setattr__(self, name, np.zeros(self.tiles, np.uint64))

    @property
    def tiles(self) -> int:
        return -(-self.width // self.tile) * -(-self.height // self.tile)

    def tags(self) -> list[tuple[int, int, int, bytes]]:
        """(tag, type, count, value), ascending."""
        found = [
            _numbers(254, _LONG, 1 if self.reduced else 0),
            _numbers(256, _LONG, self.width),
            _numbers(257, _LONG, self.height),
            _numbers(258, _SHORT, *[self.bits] * self.bands),
            _numbers(259, _SHORT, self.compression),
            _numbers(262, _SHORT, 2),  # RGB
            _numbers(277, _SHORT, self.bands),
            *self._resolution_tags(),
            _numbers(284, _SHORT, 1),  # colours side by side
            _numbers(317, _SHORT, 1 if self.compression == 1 else 2),  # horizontal differencing
            _numbers(322, _LONG, self.tile),
            _numbers(323, _LONG, self.tile),
            (324, _LONG8, self.tiles, self.offsets.astype("<u8").tobytes()),
            (325, _LONG8, self.tiles, self.lengths.astype("<u8").tobytes()),
        ]
        if self.software is not None:
            text = self.software.encode("ascii") + b"\0"
            found.append((305, _ASCII, len(text), text))
        if self.bands == 4:
            found.append(_numbers(338, _SHORT, 2))  # alpha, not premultiplied
        if self.icc_profile is not None:
            found.append((34675, _UNDEFINED, len(self.icc_profile), self.icc_profile))
        if self.geo is not None:
            found.extend(_geo_tag(*tag) for tag in self.geo.tags())
        return sorted(found)

    def _resolution_tags(self) -> list[tuple[int, int, int, bytes]]:
        if self.resolution is None:
            return []
        x, y = (_rational(value) for value in self.resolution)
        return [(282, _RATIONAL, 1, x), (283, _RATIONAL, 1, y), _numbers(296, _SHORT, 3)]  # centimetres


def header_size(directories: Sequence[Directory], ghost: bytes = b"") -> int:
    """Bytes before the first tile. Does not depend on where the tiles are."""
    return _even(_START + len(ghost)) + sum(_size(directory) for directory in directories)


def header_bytes(directories: Sequence[Directory], ghost: bytes = b"") -> bytes:
    """The file's beginning: header, ``ghost`` as it is, then every directory with its values, in order."""
    start = _even(_START + len(ghost))
    parts = [struct.pack("<2sHHHQ", b"II", 43, 8, 0, start), ghost.ljust(start - _START, b"\0")]
    for position, directory in enumerate(directories):
        following = start + _size(directory)
        parts.append(_directory_bytes(directory, start, 0 if position == len(directories) - 1 else following))
        start = following
    return b"".join(parts)


def _directory_bytes(directory: Directory, start: int, following: int) -> bytes:
    tags = directory.tags()
    place = start + 8 + len(tags) * _ENTRY + 8
    entries, values = [struct.pack("<Q", len(tags))], []
    for tag, kind, count, value in tags:
        inside = value
        if len(value) > 8:
            inside = struct.pack("<Q", place)
            values.append(value.ljust(_even(len(value)), b"\0"))
            place += _even(len(value))
        entries.append(struct.pack("<HHQ8s", tag, kind, count, inside))
    return b"".join([*entries, struct.pack("<Q", following), *values])


def _size(directory: Directory) -> int:
    tags = directory.tags()
    return 8 + len(tags) * _ENTRY + 8 + sum(_even(len(value)) for *_, value in tags if len(value) > 8)


def _numbers(tag: int, kind: int, *values: int) -> tuple[int, int, int, bytes]:
    return tag, kind, len(values), struct.pack(f"<{len(values)}{_ITEM[kind]}", *values)


def _geo_tag(tag: int, kind: str, count: int, value: Any) -> tuple[int, int, int, bytes]:
    if kind == "s":
        return tag, _ASCII, count, value.encode("ascii", "replace") + b"\0"
    return tag, {"H": _SHORT, "d": _DOUBLE}[kind], count, struct.pack(f"<{count}{kind}", *value)


def _rational(value: float) -> bytes:
    """Numerator and denominator, each below 2^32."""
    fraction = Fraction(value).limit_denominator(10_000)
    return struct.pack("<II", min(fraction.numerator, 2**32 - 1), fraction.denominator)


def _even(size: int) -> int:
    return size + size % 2

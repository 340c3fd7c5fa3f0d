"""What an ICC profile says of itself, read before a colour library is let near it. Nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Literal

from urst_tiles.memory import format_bytes

__all__ = ["Space", "header_fault", "space_of"]

Space = Literal["gray", "rgb", "cmyk"]

_SPACES: dict[bytes, Space] = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}
_MAX_BYTES = 16 << 20
"""No profile comes near that: the largest tables for printers and scanners take a few megabytes."""
_HEADER = 132
"""Bytes of the header and of the number of tags."""
_MAX_TAGS = 100
"""Little CMS reads no more."""


def space_of(profile: bytes) -> Space | None:
    """What the profile describes, None where that is none of those known here."""
    return _SPACES.get(profile[16:20])


def header_fault(profile: bytes, spaces: tuple[Space, ...]) -> str | None:
    """Why a profile cannot be one for pixels in one of ``spaces``, in words; None where nothing speaks against it."""
    if len(profile) > _MAX_BYTES:
        return f"with {format_bytes(len(profile))} it is too large to be one"
    if len(profile) < _HEADER or profile[36:40] != b"acsp":
        return "it is damaged or none at all"
    if space_of(profile) not in spaces:
        said = profile[16:20].decode("ascii", "replace").strip() or "nothing known"
        return f"it describes {said} and the pixels are {' or '.join(spaces)}"
    if _number(profile, 0) > len(profile):
        return "it is cut off"
    # Little CMS takes memory for a table, up to 512 MiB, before it sees that the table is not there.
    if any(size > len(profile) for tag in _tags(profile) for size in _table_bytes(tag)):
        return "it is damaged: it names a table larger than itself"
    return None


def _tags(profile: bytes) -> Iterator[bytes]:
    for entry in range(min(_number(profile, 128), _MAX_TAGS)):
        start = _number(profile, _HEADER + 12 * entry + 4)
        yield profile[start : start + _number(profile, _HEADER + 12 * entry + 8)]


def _table_bytes(tag: bytes) -> Iterator[int]:
    """What the tables of colours in a tag must take, going by their sides."""
    kind, inputs, outputs = tag[:4], *(tag[8:10].ljust(2, b"\0"))
    if kind in (b"mft1", b"mft2"):
        yield (tag[10:11] or b"\0")[0] ** inputs * outputs * int(kind[3:])
    elif kind in (b"mAB ", b"mBA ") and (start := _number(tag, 24)):
        table = tag[start:]
        yield prod(table[:inputs]) * outputs * max(b"\1" + table[16:17])
    elif kind == b"mpet":
        at = tag.find(b"clut")
        while at >= 0:
            table = tag[at:]
            yield prod(table[12 : 12 + (_number(table, 8) >> 16)]) * (_number(table, 8) & 0xFFFF) * 4
            at = tag.find(b"clut", at + 1)


def _number(data: bytes, at: int) -> int:
    """32 bits; what is missing is 0."""
    return int.from_bytes(data[at : at + 4].ljust(4, b"\0"), "big")

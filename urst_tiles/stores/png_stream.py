"""A picture streamed as a PNG that is not compressed: the one format that libvips decodes from a pipe, row by row, with
8 and 16 bit and alpha. Also a mark in a finished PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["Feed", "forget_resolution", "stored_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR = {3: 2, 4: 6}
# bands → PNG's colour type
_UNKNOWN = struct.pack(">IIB", 1, 1, 0)
# pHYs: square pixels of no known size


def stored_png(width: int, height: int, bands: int, bits: int, rows: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """The parts of a PNG file. ``rows`` are (any height, width, bands), ``height`` of them in all."""
    yield _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR[bands], 0, 0, 0))
    stored = zlib.compressobj(level=0)
    for part in rows:
        # Each row begins with the number of its filter: 0, none.
        lines = np.zeros((len(part), 1 + width * bands * bits // 8), np.uint8)
        lines[:, 1:] = np.ascontiguousarray(part, part.dtype.newbyteorder(">")).view(np.uint8).reshape(len(part), -1)
        yield _chunk(b"IDAT", stored.compress(lines.tobytes()))
    yield _chunk(b"IDAT", stored.flush()) + _chunk(b"IEND", b"")


class Feed:
    """Parts of a file, handed out a few bytes at a time, as libvips asks for them.

    What goes wrong on the way cannot be raised through libvips: the file ends there and ``error`` says why.
    """

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._parts = parts
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        try:
            while not self._left:
                part = next(self._parts, None)
                if part is None:
                    return b""
                self._left = memoryview(part)
        except BaseException as error:  # noqa: BLE001  (raised again by who reads ``error``)
            self.error = error
            self._parts = iter(())
            return b""
        given, self._left = bytes(self._left[:size]), self._left[size:]
        return given


def forget_resolution(path: Path) -> None:
    """Make a PNG say that its pixels are square and of unknown size. libvips always states a resolution."""
    with path.open("r+b") as file:
        file.seek(len(_SIGNATURE))
        for kind, length in _chunks(file):
            if kind == b"pHYs":
                file.seek(-8, 1)
                file.write(_chunk(b"pHYs", _UNKNOWN))
            if kind in (b"pHYs", b"IDAT"):
                return
            file.seek(length + 4, 1)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, length) of what follows; the file then stands before the chunk's data, and is to be moved past it."""
    while len(head := file.read(8)) == 8:
        yield head[4:], int.from_bytes(head[:4], "big")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

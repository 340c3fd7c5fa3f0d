"""Torch7's binary format (.t7): one object, and what is inside it. No code in a file is ever run.

A file is one object, written depth first, little endian: a type (int), then ::

    nil · number (double) · boolean (int) · string (int length, bytes)
    table         int index [, int n, n times key and value]
    torch object  int index [, "V 1", class name, and what its class writes]
    function      int index [, int length, bytecode, its upvalues]          passed over

An index seen before stands for the same object again, so that objects may share parts and may contain themselves. A
tensor writes its sizes, strides and offset and then its storage; a storage its length and then its numbers; every other
class writes one table of fields. A long has 8 bytes, or 4 where a 32-bit or a Windows machine wrote the file.

Every length is checked against what is left of the file before anything of that length is made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DamageError", "Layer", "read_object"]

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN, _OLD_FUNCTION = range(7)
_FUNCTIONS = (7, 8)
_SMALLEST_OBJECT = 4
"""Bytes: a type alone."""
_DEEPEST = 64
"""Objects inside each other. A nested network needs seven a level."""
_MOST_OBJECTS = 1_000_000
_MOST_DIMENSIONS = 16
_MOST_SHARING = 4
"""Times the file's size: what tensors may come to that have storages in common."""

_NUMBERS = {
    "Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Half": "<f2", "Float": "<f4", "Double": "<f8",
    "Cuda": "<f4", "CudaHalf": "<f2", "CudaDouble": "<f8", "CudaByte": "u1", "CudaInt": "<i4",
}  # fmt: skip
"""Types of a storage's numbers. A Long's width depends on the machine that wrote it."""


@dataclass(eq=False, slots=True)
class Layer:
    """An object of a class that is neither a tensor nor a storage."""

    kind: str
    fields: dict[Any, Any] = field(default_factory=dict)


class DamageError(Exception):
    """The bytes do not make sense."""


def read_object(data: memoryview, *, long: int) -> Any:
    """The object that a file is: None, float, bool, str, dict, Tensor, 1-D array (a storage) or :class:`Layer`.

    ``long`` is a long's width in bytes, 4 or 8.

    Raises:
        DamageError: the bytes do not make sense.
    """
    return _Reader(data, long=long).whole()


class _Reader:
    """One pass over a file's bytes."""

    def __init__(self, data: memoryview, *, long: int) -> None:
        self._data, self._at, self._objects, self._copied = data, 0, 0, 0
        self._long = "<q" if long == 8 else "<i"
        self._known: dict[int, Any] = {}
        # objects by their index

    def whole(self) -> Any:
        value = self._object(0)
        if self._left:
            raise DamageError(f"{self._left} bytes are left over after its one object")
        return value

    @property
    def _left(self) -> int:
        return len(self._data) - self._at

    def _take(self, length: int) -> memoryview:
        if not 0 <= length <= self._left:
            raise DamageError(f"it wants {length} bytes at byte {self._at} and has {self._left}")
        self._at += length
        return self._data[self._at - length : self._at]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _int(self) -> int:
        return int(self._number("<i"))

    def _longs(self, count: int) -> list[int]:
        return [int(self._number(self._long)) for _ in range(count)]

    def _text(self) -> str:
        return bytes(self._take(self._int())).decode("latin-1")

    def _object(self, depth: int) -> Any:
        self._objects += 1
        if depth > _DEEPEST or self._objects > _MOST_OBJECTS:
            raise DamageError(f"more than {_DEEPEST} objects inside each other, or {_MOST_OBJECTS} in all")
        kind = self._int()
        if kind in (_TABLE, _TORCH, *_FUNCTIONS):
            return self._indexed(kind, depth)
        if kind == _OLD_FUNCTION:
            return self._function(depth)
        return self._plain(kind)

    def _plain(self, kind: int) -> float | bool | str | None:
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            return float(self._number("<d"))
        if kind == _STRING:
            return self._text()
        if kind == _BOOLEAN:
            return self._int() != 0
        raise DamageError(f"byte {self._at - 4} starts an object of type {kind}, which there is not")

    def _indexed(self, kind: int, depth: int) -> Any:
        """Known before its parts are read, which may name it."""
        index = self._int()
        if index in self._known:
            return self._known[index]
        if kind == _TABLE:
            return self._table(self._known.setdefault(index, {}), depth)
        if kind == _TORCH:
            return self._known.setdefault(index, self._torch(index, depth))
        self._known[index] = None
        return self._function(depth)

    def _table(self, table: dict[Any, Any], depth: int) -> dict[Any, Any]:
        """Entries whose keys are strings, numbers or booleans; others are read over."""
        size = self._int()
        if not 0 <= size <= self._left // (2 * _SMALLEST_OBJECT):
            raise DamageError(f"a table of {size} entries at byte {self._at}, with {self._left} bytes left")
        for _ in range(size):
            key, value = self._object(depth + 1), self._object(depth + 1)
            if isinstance(key, str | float | bool):
                table[key] = value
        return table

    def _function(self, depth: int) -> Any:
        """nil: bytecode is passed over, never looked at."""
        self._take(self._int())
        self._object(depth + 1)
        return None

    def _torch(self, index: int, depth: int) -> Any:
        version = self._text()
        name = self._text() if version.startswith("V ") else version
        package, _, kind = name.rpartition(".")
        if package == "torch" and kind.endswith("Storage"):
            return self._storage(kind.removesuffix("Storage"))
        if package == "torch" and kind.endswith("Tensor"):
            return self._tensor(kind.removesuffix("Tensor"), depth)
        layer = self._known.setdefault(index, Layer(name))
        fields = self._object(depth + 1)
        if isinstance(layer, Layer) and isinstance(fields, dict):
            layer.fields = fields
        return layer

    def _dtype(self, kind: str) -> np.dtype[Any]:
        width = struct.calcsize(self._long)
        found = f"<i{width}" if kind in ("Long", "CudaLong") else _NUMBERS.get(kind)
        if found is None:
            raise DamageError(f"numbers of type {kind[:40]!r} are not known")
        return np.dtype(found)

    def _storage(self, kind: str) -> NDArray[Any]:
        dtype = self._dtype(kind)
        (length,) = self._longs(1)
        if length < 0:
            raise DamageError(f"a storage of {length} numbers")
        return np.frombuffer(self._take(length * dtype.itemsize), dtype)

    def _tensor(self, kind: str, depth: int) -> Tensor:
        dimensions = self._int()
        if not 0 <= dimensions <= _MOST_DIMENSIONS:
            raise DamageError(f"a tensor of {dimensions} dimensions")
        sizes, strides = self._longs(dimensions), self._longs(dimensions)
        (offset,) = self._longs(1)
        storage = self._object(depth + 1)
        if storage is None:
            storage = np.empty(0, self._dtype(kind))
        if not isinstance(storage, np.ndarray) or storage.dtype != self._dtype(kind):
            raise DamageError(f"a {kind[:40]}Tensor without a storage of its type")
        self._copied += storage.itemsize * min(prod(sizes), len(storage)) if min(sizes, default=0) > 0 else 0
        if self._copied > _MOST_SHARING * len(self._data):
            raise DamageError(f"its tensors are more than {_MOST_SHARING} times as large as the file")
        return _part(storage, sizes, strides, offset - 1)


def _part(storage: NDArray[Any], sizes: list[int], strides: list[int], offset: int) -> Tensor:
    """A copy of a part of a storage, which must hold all of it. No dimensions: an empty tensor, as Torch7 has it."""
    if not sizes:
        return torch.from_numpy(np.empty(0, storage.dtype))
    count, last = 1, offset
    for size, stride in zip(sizes, strides, strict=True):
        if size < 1 or stride < 0:
            raise DamageError(f"a tensor of sizes {sizes[:4]} and strides {strides[:4]}")
        count, last = count * size, last + (size - 1) * stride
    if not (0 <= offset <= last < len(storage) and count <= len(storage)):
        raise DamageError(f"a tensor of sizes {sizes[:4]} in a storage of {len(storage)} numbers")
    width = storage.itemsize
    steps = [width * stride if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
    part = np.lib.stride_tricks.as_strided(storage[offset:], sizes, steps)
    return torch.from_numpy(part.astype(storage.dtype.newbyteorder("="), order="C", copy=True))

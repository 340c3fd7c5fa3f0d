"""Reading Torch7's binary files (.t7): tensors by name, and nothing else. No code in a file is ever run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.torch7_objects import DamageError, Layer, read_object

__all__ = ["looks_like_torch7", "read_torch7"]

_KEPT = ("weight", "bias", "running_mean", "running_var")
"""Fields of a layer. The others are what a forward or a backward pass left there."""

_LONGEST_NAME = 512
"""Characters. Real names have a few dozen."""


def looks_like_torch7(head: bytes) -> bool:
    """Whether a file that starts so is one: its first object is a table or a torch object. Binary, or in text form."""
    return head.startswith((b"\3\0\0\0\1\0\0\0", b"\4\0\0\0\1\0\0\0")) or _is_text(head)


def read_torch7(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .t7 file by name, on the CPU, in the file's types.

    A network's layers are named as :class:`torch.nn.Sequential` names them: "0.weight" is the weight of the first
    module, "3.1.bias" the bias of the second module inside the fourth. Lua counts from 1; these names count from 0. A
    table's entries are named by their keys: {model = network} gives "model.0.weight". Of a layer, only weight, bias and
    running statistics are read. What occurs twice is named once, where it stands first.

    Raises:
        NetworkError: the file is damaged, or in text form.
    """
    path = Path(path)
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise NetworkError(f"weights {path} cannot be opened: {error.strerror}") from error
    if _is_text(bytes(data[:16])):
        raise NetworkError(
            f"{path} is a Torch7 file in text form, which is not read; save it in binary form: "
            "torch.save(name, object, 'binary')"
        )
    try:
        return _read(data)
    except DamageError as error:
        raise NetworkError(f"{path} is a damaged Torch7 file: {error}") from error


def _is_text(head: bytes) -> bool:
    return head.startswith((b"3\n1\n", b"4\n1\n"))


def _read(data: memoryview) -> dict[str, Tensor]:
    """With longs of 8 bytes or, where the file makes no sense so, of 4."""
    try:
        return _named(read_object(data, long=8))
    except DamageError:
        try:
            return _named(read_object(data, long=4))
        except DamageError:
            pass
        raise


def _named(root: Any) -> dict[str, Tensor]:
    """The tensors below an object. Each object is gone through once, so that cycles end."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        name, value = waiting.pop()
        if len(name) > _LONGEST_NAME:
            raise DamageError(f"a name of {len(name)} characters")
        if isinstance(value, Tensor):
            if name and value.numel():
                if name in found:
                    raise DamageError(f"two of its tensors are called {name}")
                found[name] = value
        elif isinstance(value, dict | Layer) and id(value) not in seen:
            seen.add(id(value))
            parts = _parts(value) if isinstance(value, Layer) else _entries(value)
            waiting += reversed([(f"{name}.{key}" if name and key else name or key, part) for key, part in parts])
    return found


def _parts(layer: Layer) -> Iterator[tuple[str, Any]]:
    """What is kept of a layer; its modules without a name of their own."""
    for name in _KEPT:
        value = layer.fields.get(name)
        if isinstance(value, Tensor):
            yield name, _as_convolution(layer, value) if name == "weight" else value
    if isinstance(modules := layer.fields.get("modules"), dict):
        yield "", modules


def _entries(table: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(key, float):
            yield (str(int(key) - 1) if key.is_integer() else repr(key)), value
        else:
            yield str(key), value


def _as_convolution(layer: Layer, weight: Tensor) -> Tensor:
    """Some convolutions keep their weight as a matrix, (out, in · height · width)."""
    shape = [layer.fields.get(name) for name in ("nOutputPlane", "nInputPlane", "kH", "kW")]
    if weight.ndim != 2 or not all(isinstance(side, float) and side.is_integer() and side > 0 for side in shape):
        return weight
    sides = [int(side) for side in shape if side is not None]
    fits = sides[0] == weight.shape[0] and sides[1] * sides[2] * sides[3] == weight.shape[1]
    return weight.reshape(sides) if fits else weight

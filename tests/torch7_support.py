"""A writer of Torch7's binary format, for tests: the format a second time, from the other side."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

KINDS = {torch.float32: "Float", torch.float64: "Double", torch.int64: "Long", torch.uint8: "Byte"}


@dataclass(eq=False)
class Module:
    """An object of a class of nn."""

    kind: str
    fields: dict[Any, Any] = field(default_factory=dict)
    version: str = "V 1"


@dataclass(eq=False)
class Function:
    code: bytes
    upvalues: Any = None
    kind: int = 8


class Writer:
    def __init__(self, long: int = 8) -> None:
        self.form = "<q" if long == 8 else "<i"
        self.out = bytearray()
        self.indices: dict[Any, int] = {}
        self.kept: list[Any] = []  # ids are only unique while their objects live

    def number(self, form: str, *values: Any) -> None:
        for value in values:
            self.out += struct.pack(form, value)

    def text(self, text: str) -> None:
        self.number("<i", len(text))
        self.out += text.encode("latin-1")

    def is_new(self, kind: int, key: Any) -> bool:
        """Writes type and index; whether its contents must follow."""
        new = key not in self.indices
        self.number("<i", kind, self.indices.setdefault(key, len(self.indices) + 1))
        return new

    def object(self, value: Any) -> None:
        self.kept.append(value)
        if value is None:
            self.number("<i", 0)
        elif isinstance(value, bool):
            self.number("<i", 5, int(value))
        elif isinstance(value, int | float):
            self.number("<i", 1)
            self.number("<d", float(value))
        elif isinstance(value, str):
            self.number("<i", 2)
            self.text(value)
        elif isinstance(value, Tensor):
            self.tensor(value)
        elif isinstance(value, Function):
            self.function(value)
        elif isinstance(value, Module):
            self.module(value)
        else:
            self.table(value)

    def table(self, value: dict[Any, Any] | list[Any]) -> None:
        entries = dict(enumerate(value, 1)) if isinstance(value, list) else value
        if self.is_new(3, id(value)):
            self.number("<i", len(entries))
            for key, entry in entries.items():
                self.object(key)
                self.object(entry)

    def module(self, value: Module) -> None:
        if self.is_new(4, id(value)):
            if value.version:
                self.text(value.version)
            self.text(value.kind)
            self.object(value.fields)

    def function(self, value: Function) -> None:
        if value.kind == 6:
            self.number("<i", 6)
        elif not self.is_new(value.kind, id(value)):
            return
        self.number("<i", len(value.code))
        self.out += value.code
        self.object(value.upvalues)

    def tensor(self, value: Tensor) -> None:
        if not self.is_new(4, id(value)):
            return
        kind = KINDS[value.dtype]
        self.text("V 1")
        self.text(f"torch.{kind}Tensor")
        if not value.numel():
            self.number("<i", 0)
            self.number(self.form, 1)
            self.object(None)
            return
        self.number("<i", value.ndim)
        self.number(self.form, *value.shape, *value.stride(), value.storage_offset() + 1)
        storage = value.untyped_storage()
        if self.is_new(4, storage.data_ptr()):
            self.text("V 1")
            self.text(f"torch.{kind}Storage")
            flat = torch.empty(0, dtype=value.dtype).set_(storage)
            numbers = flat.numpy().astype(np.int32) if kind == "Long" and self.form == "<i" else flat.numpy()
            self.number(self.form, len(numbers))
            self.out += numbers.tobytes()


def as_torch7(value: Any, long: int = 8) -> bytes:
    """The bytes of a file that holds one object: tensors, lists, dicts, :class:`Module`, numbers, texts."""
    writer = Writer(long)
    writer.object(value)
    return bytes(writer.out)


def sequential(state: dict[str, Tensor], *, places: int) -> Module:
    """nn.Sequential of this many modules, those that the state names ("5.weight") convolutions with gradients left."""
    modules: list[Module] = []
    for place in range(places):
        weight, bias = state.get(f"{place}.weight"), state.get(f"{place}.bias")
        if weight is None:
            modules.append(
                Module("nn.SpatialReflectionPadding", {"pad_l": 1, "train": False, "output": torch.empty(0)})
            )
        else:
            grown = {"gradWeight": torch.full((3,), 7.0), "output": torch.zeros(2), "kW": weight.shape[-1], "dW": 1}
            modules.append(Module("nn.SpatialConvolution", {**grown, "weight": weight, "bias": bias}))
    return Module("nn.Sequential", {"modules": modules, "_type": "torch.FloatTensor", "gradInput": torch.zeros(1)})

"""How published files name the parts of a Johnson network, and how those names become this package's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Literal, get_args

from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.recognition import recognise
from urst_tiles.networks.renaming import faults

__all__ = ["VALUE_RANGES", "ValueRange", "translate"]

ValueRange = Literal["imagenet", "rgb-0-255"]
"""What the convolutions see: RGB minus ImageNet's mean over its deviation, or RGB from 0 to 255."""

VALUE_RANGES: tuple[ValueRange, ...] = get_args(ValueRange)

Names = tuple[str, str]
"""Of a layer's convolution and of its norm, without ".weight" and ".bias"."""


_HALVES = ("first", "second")


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a published file names the layers. Layers, blocks and the two halves of a block count from 1."""

    title: str
    value_range: ValueRange
    encoder: Callable[[int], Names]
    residual: Callable[[int, int], Names]
    decoder: Callable[[int, int], Names]
    # of the layer and the number of residual blocks

    def blocks_in(self, state: Mapping[str, Tensor]) -> int:
        return sum(1 for _ in takewhile(lambda i: self.residual(i, 1)[0] + ".weight" in state, count(1)))

    def layers(self, blocks: int) -> dict[str, Names]:
        """This package's name of each layer → the file's names."""
        found = {f"conv{i}": self.encoder(i) for i in (1, 2, 3)}
        for i in range(1, blocks + 1):
            found |= {f"residual.{i - 1}.{half}": self.residual(i, j) for j, half in enumerate(_HALVES, 1)}
        return found | {f"deconv{i}": self.decoder(i, blocks) for i in (1, 2, 3)}

    def parameters(self, blocks: int) -> dict[str, str]:
        """The file's name of each tensor → this package's."""
        names: dict[str, str] = {}
        for layer, (conv, norm) in self.layers(blocks).items():
            for part in ("weight", "bias"):
                names[f"{conv}.{part}"] = f"{layer}.conv.{part}"
                if layer != "deconv3":
                    names[f"{norm}.{part}"] = f"{layer}.norm.{part}"
        return names


_LAYOUTS = (
    _Layout(
        "pytorch/examples layout",
        "rgb-0-255",
        encoder=lambda i: (f"conv{i}.conv2d", f"in{i}"),
        residual=lambda i, j: (f"res{i}.conv{j}.conv2d", f"res{i}.in{j}"),
        decoder=lambda i, _: (f"deconv{i}.conv2d", f"in{i + 3}"),
    ),
    _Layout(
        "URST layout",
        "imagenet",
        encoder=lambda i: (f"conv{i}.block.1", f"conv{i}.norm"),
        residual=lambda i, j: (f"res{i}.block{j}.block.1", f"res{i}.block{j}.norm"),
        decoder=lambda i, _: (f"deconv{i}.block.1", f"deconv{i}.norm"),
    ),
    _Layout(
        "Fast-Neural-Style-Transfer layout",
        "imagenet",
        encoder=lambda i: (f"model.{i - 1}.block.1", f"model.{i - 1}.norm"),
        residual=lambda i, j: (f"model.{i + 2}.block.{j - 1}.block.1", f"model.{i + 2}.block.{j - 1}.norm"),
        decoder=lambda i, blocks: (f"model.{i + 2 + blocks}.block.1", f"model.{i + 2 + blocks}.norm"),
    ),
    _Layout(
        "this package's layout",
        "imagenet",
        encoder=lambda i: (f"conv{i}.conv", f"conv{i}.norm"),
        residual=lambda i, j: (f"residual.{i - 1}.{_HALVES[j - 1]}.conv", f"residual.{i - 1}.{_HALVES[j - 1]}.norm"),
        decoder=lambda i, _: (f"deconv{i}.conv", f"deconv{i}.norm"),
    ),
)

_RANGE_NAMES = frozenset(f"range_{way}.{part}" for way in ("in", "out") for part in ("scale", "shift"))


def translate(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], int, ValueRange]:
    """(tensors by this package's names, number of residual blocks, value range of the layout).

    Value-range tensors are in the result where the file has them, as this package's own files do.

    Raises:
        NetworkError: no layout fits, or tensors are missing or left over.
    """
    cleaned = _cleaned(state)
    layout = next((layout for layout in _LAYOUTS if layout.encoder(1)[0] + ".weight" in cleaned), None)
    looks_like = recognise(cleaned)
    if layout is None or (looks_like and "Johnson" not in looks_like):
        kind = (
            f"look like {looks_like}"
            if looks_like
            else f"are of no known layout (first names: {', '.join(list(cleaned)[:3])})"
        )
        raise NetworkError(f"{source}: not the weights of a Johnson network; they {kind}")
    blocks = layout.blocks_in(cleaned)
    names = layout.parameters(blocks)
    ranges = {name for name in _RANGE_NAMES if name in cleaned}
    missing = [name for name in names if name not in cleaned]
    surplus = [name for name in cleaned if name not in names and name not in ranges]
    if missing or surplus or len(ranges) not in (0, len(_RANGE_NAMES)):
        raise NetworkError(
            f"{source} looks like a Johnson network ({layout.title}, {blocks} residual blocks), but "
            f"{faults(missing, surplus) or 'its value ranges are not whole'}"
        )
    weights = {ours: _flat_norm(cleaned[theirs], ours) for theirs, ours in names.items()}
    return weights | {name: cleaned[name] for name in ranges}, blocks, layout.value_range


def _cleaned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the marks that training leaves: DataParallel's prefix, a wrapped norm, running statistics that are never
    used.
    """
    cleaned = {}
    for name, tensor in state.items():
        if name.endswith((".running_mean", ".running_var", ".num_batches_tracked")):
            continue
        cleaned[re.sub(r"^(module\.)+", "", name).replace("norm.norm.", "norm.")] = tensor
    return cleaned


def _flat_norm(tensor: Tensor, name: str) -> Tensor:
    """The URST code stores a norm's weight as (1, C, 1, 1); it is (C,) here."""
    per_channel = ".norm." in name and tensor.ndim == 4 and tensor.shape[0] == tensor.shape[2] == tensor.shape[3] == 1
    return tensor.reshape(-1) if per_channel else tensor

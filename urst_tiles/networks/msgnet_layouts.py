"""How published files name the parts of MSG-Net, and how those names become this package's.

A file holds the first half of the network twice, as ``model1.*`` and ``model.0.*``, and the Inspiration layer's matrix
as ``ins.weight`` and ``model.1.weight``. Files of the authors have no norm weights: their norms scale by 1 and shift
by 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count, takewhile

import torch
from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.renaming import cleaned, refusal, renamed

__all__ = ["WHAT", "translate"]

WHAT = "MSG-Net"

_OWN = "inspiration.weight"
"""A name that only this package's own files have."""

_BLOCK = {
    "conv_block.0": "norm1",
    "conv_block.2": "reduce",
    "conv_block.3": "norm2",
    "conv_block.5.conv2d": "conv",
    "conv_block.6": "norm3",
    "conv_block.8": "expand",
}


def translate(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors by this package's names, one copy of each, norms with weights; channels stay blue, green, red.

    Raises:
        NetworkError: the layout is another one, tensors are missing or left over, or two copies differ.
    """
    found = cleaned(state)
    if _OWN in found:
        return found
    found = _single(found, source)
    if "model1.0.conv2d.weight" not in found:
        raise refusal(state, WHAT, source)
    layers = _layers(found)
    norms = {theirs: ours for theirs, ours in layers.items() if re.search(r"norm\d?$", ours)}
    if not any(f"{theirs}.weight" in found for theirs in norms):
        found |= _neutral(found, layers, norms)
    names = {f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in layers.items() for part in ("weight", "bias")}
    weights = renamed(found, names | {"ins.weight": _OWN}, WHAT, source)
    matrix = weights[_OWN]
    if matrix.ndim != 3 or matrix.shape[0] != 1:
        raise NetworkError(f"{source}: ins.weight has shape {tuple(matrix.shape)} where {WHAT} has (1, C, C)")
    return weights | {_OWN: matrix[0]}


def _single(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """With one copy of what the file holds twice, under the first of its two names."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first = re.sub(r"^model\.0\.", "model1.", name).replace("model.1.weight", "ins.weight")
        if first in found and not torch.equal(found[first], tensor):
            raise NetworkError(f"{source}: {first} and {name} should be two copies of the same weights, but differ")
        found[first] = tensor
    return found


def _layers(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The file's name of each layer → this package's."""
    blocks = sum(1 for _ in takewhile(lambda i: _is_plain_block(state, i + 2), count()))
    after = blocks + 2  # number of the first layer behind the blocks
    layers = {"model1.0.conv2d": "encoder.conv", "model1.1": "encoder.norm"}
    layers |= _block("model1.3", "encoder.down1", "residual_layer")
    layers |= _block("model1.4", "encoder.down2", "residual_layer")
    for i in range(blocks):
        layers |= _block(f"model.{i + 2}", f"decoder.blocks.{i}", None)
    layers |= _block(f"model.{after}", "decoder.up1", "residual_layer.conv2d")
    layers |= _block(f"model.{after + 1}", "decoder.up2", "residual_layer.conv2d")
    return layers | {f"model.{after + 2}": "decoder.norm", f"model.{after + 4}.conv2d": "decoder.conv"}


def _is_plain_block(state: Mapping[str, Tensor], i: int) -> bool:
    return f"model.{i}.conv_block.2.weight" in state and f"model.{i}.residual_layer.conv2d.weight" not in state


def _block(theirs: str, ours: str, shortcut: str | None) -> dict[str, str]:
    names = {f"{theirs}.{part}": f"{ours}.{mine}" for part, mine in _BLOCK.items()}
    return names if shortcut is None else names | {f"{theirs}.{shortcut}": f"{ours}.shortcut"}


def _neutral(state: Mapping[str, Tensor], layers: Mapping[str, str], norms: Mapping[str, str]) -> dict[str, Tensor]:
    """Scales of 1 and shifts of 0 for every norm, as wide as the convolution that reads or feeds it."""
    theirs_of = {ours: theirs for theirs, ours in layers.items()}
    neutral: dict[str, Tensor] = {}
    for theirs, ours in norms.items():
        convolution, axis = _neighbour(ours)
        weight = state.get(f"{theirs_of[convolution]}.weight")
        if weight is not None and weight.ndim == 4:  # what is missing or misshapen is said elsewhere
            channels = weight.shape[axis]
            neutral |= {f"{theirs}.weight": torch.ones(channels), f"{theirs}.bias": torch.zeros(channels)}
    return neutral


def _neighbour(norm: str) -> tuple[str, int]:
    """The convolution beside a norm, and the axis of its weight that is the norm's channels."""
    layer, _, kind = norm.rpartition(".")
    if kind == "norm":
        return f"{layer}.conv", 0 if layer == "encoder" else 1
    return f"{layer}.{ {'norm1': 'reduce', 'norm2': 'conv', 'norm3': 'expand'}[kind] }", 1

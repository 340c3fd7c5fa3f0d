"""How published files name the parts of a CycleGAN generator, and how those names become this package's.

Three families: the CycleGAN and pix2pix code; the CUT code, which adds fixed blurs (``filt``) around its resampling and
so shifts the numbers; and the code of KIN and DN, which learns those blurs. Number of blocks, dropout (which shifts a
block's second convolution by one) and blurs are told by the names.
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

WHAT = "a CycleGAN generator"

_OWN = "first.conv.weight"
"""A name that only this package's own files have."""

Names = dict[str, str]
"""The file's name of each layer → this package's."""


def translate(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors by this package's names.

    Raises:
        NetworkError: the layout is another one, or tensors are missing or left over.
    """
    found = cleaned(state)
    if _OWN in found:
        return found
    if "model.1.weight" in found and any(re.fullmatch(r"model\.1[0-2]\.conv_block\.1\.weight", n) for n in found):
        layers = _numbered(found)
    elif "resnetblocks4.0.model.1.weight" in found:
        layers = _named(found)
    else:
        raise refusal(state, WHAT, source)
    _refuse_norms(found, layers, source)
    found = _with_biases(found)
    names = {f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in layers.items() for part in ("weight", "bias")}
    return renamed(found, names, WHAT, source)


def _numbered(state: Mapping[str, Tensor]) -> Names:
    """Layers of the CycleGAN and CUT codes, by walking along the numbers: pad 0, convolution 1, norm 2, ReLU 3, …"""
    layers, at = {"model.1": "first.conv"}, 4
    for down in ("down1", "down2"):
        layers[f"model.{at}"] = f"{down}.conv"
        blurred = f"model.{at + 3}.filt" in state
        if blurred:
            layers[f"model.{at + 3}"] = f"{down}.sample"
        at += 4 if blurred else 3
    for i in takewhile(lambda i: f"model.{at + i}.conv_block.1.weight" in state, count()):
        second = 6 if f"model.{at + i}.conv_block.6.weight" in state else 5  # behind a dropout
        layers |= {
            f"model.{at + i}.conv_block.1": f"residual.{i}.first.conv",
            f"model.{at + i}.conv_block.{second}": f"residual.{i}.second.conv",
        }
    at += sum(1 for ours in layers.values() if ours.endswith(".second.conv"))
    for up in ("up1", "up2"):
        blurred = f"model.{at}.filt" in state
        if blurred:
            layers[f"model.{at}"] = f"{up}.sample"
            at += 1
        layers[f"model.{at}"] = f"{up}.conv"
        at += 3
    return layers | {f"model.{at + 1}": "last"}


def _named(state: Mapping[str, Tensor]) -> Names:
    """Layers of the KIN and DN codes."""
    layers = {"block1.0": "first.conv", "block7.1": "last"}
    for theirs, ours in (("downsampleblock2", "down1"), ("downsampleblock3", "down2")):
        layers |= {f"{theirs}.conv": f"{ours}.conv", f"{theirs}.downsample.conv": f"{ours}.sample"}
    for i in takewhile(lambda i: f"resnetblocks4.{i}.model.1.weight" in state, count()):
        layers |= {f"resnetblocks4.{i}.model.1": f"residual.{i}.first.conv"}
        layers |= {f"resnetblocks4.{i}.model.5": f"residual.{i}.second.conv"}
    for theirs, ours in (("upsampleblock5", "up1"), ("upsampleblock6", "up2")):
        layers |= {f"{theirs}.upsample.model.1": f"{ours}.sample", f"{theirs}.conv": f"{ours}.conv"}
    return layers


def _refuse_norms(state: Mapping[str, Tensor], layers: Names, source: str) -> None:
    """A weight of one dimension is a norm's: the generator was trained with another kind of norm."""
    norms = [name for name, tensor in state.items() if name.endswith(".weight") and tensor.ndim == 1]
    if norms and norms[0].removesuffix(".weight") not in layers:
        raise NetworkError(
            f"{source} has norm weights ({norms[0]}): it was trained with batch norms, and only generators with "
            "instance norms (--norm instance) are known here"
        )


def _with_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With fixed blurs, (C, 1, h, w) without a bias, as convolutions with one."""
    found = {name: tensor for name, tensor in state.items() if not name.endswith(".filt")}
    for name, tensor in state.items():
        if name.endswith(".filt"):
            layer = name.removesuffix(".filt")
            found |= {f"{layer}.weight": tensor, f"{layer}.bias": torch.zeros(tensor.shape[:1])}
    return found

"""Random weights of the published widths, by this package's names: how fast a network is does not depend on its
weights' values, and not every method's published file may be at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from urst_tiles.networks.johnson import JohnsonNetwork
from urst_tiles.networks.microast import MicroASTWeights
from urst_tiles.networks.microast_layers import Widths
from urst_tiles.networks.vgg import random_vgg
from urst_tiles.networks.wct_layouts import LEVELS, layers

__all__ = ["adain", "collaborative", "johnson", "linear_wct", "microast", "msgnet", "wct"]

VGG = (64, 64, 128, 128, 256, 256, 256, 256, 512)
"""Widths of VGG-19 down to relu4_1."""

Shapes = Mapping[str, tuple[int, ...]]


def johnson() -> dict[str, Tensor]:
    return _lively({name: tuple(tensor.shape) for name, tensor in JohnsonNetwork().named_parameters()})


def adain() -> dict[str, Tensor]:
    return random_vgg(VGG, _generator())


def linear_wct() -> dict[str, Tensor]:
    """Transformation at relu4_1."""
    shapes: dict[str, tuple[int, ...]] = {}
    for net in ("snet", "cnet"):
        for layer, outputs, inputs in (("convs.0", 256, 512), ("convs.2", 128, 256), ("convs.4", 32, 128)):
            shapes |= _convolution(f"{net}.{layer}", outputs, inputs, 3)
        shapes |= {f"{net}.fc.weight": (1024, 1024), f"{net}.fc.bias": (1024,)}
    shapes |= _convolution("compress", 32, 512, 1) | _convolution("unzip", 512, 32, 1)
    state = _lively(shapes)
    for net in ("snet", "cnet"):  # a matrix near to 1
        state[f"{net}.fc.weight"] *= 0.1 / 32
        state[f"{net}.fc.bias"] = torch.eye(32).flatten()
    return random_vgg(VGG, _generator()) | state


def msgnet() -> dict[str, Tensor]:
    """128 features, 6 blocks."""
    shapes = _convolution("encoder.conv", 64, 3, 7) | _norm("encoder.norm", 64)
    shapes |= _block("encoder.down1", 64, 32, 128, shortcut=True) | _block(
        "encoder.down2", 128, 128, 512, shortcut=True
    )
    for index in range(6):
        shapes |= _block(f"decoder.blocks.{index}", 512, 128, 512)
    shapes |= _block("decoder.up1", 512, 32, 128, shortcut=True) | _block("decoder.up2", 128, 16, 64, shortcut=True)
    shapes |= _norm("decoder.norm", 64) | _convolution("decoder.conv", 3, 64, 7) | {"inspiration.weight": (512, 512)}
    state = _lively(shapes)
    return state | {
        "decoder.conv.weight": 30 * state["decoder.conv.weight"],
        "decoder.conv.bias": torch.full((3,), 128.0),
    }


def microast() -> dict[str, Tensor]:
    shapes = {name: tuple(tensor.shape) for name, tensor in MicroASTWeights(Widths(16, 32, 64)).named_parameters()}
    state = _lively(shapes)
    for name, tensor in state.items():
        if "modulator." in name and name.endswith("bias"):
            tensor += 0.5
    state["decoder.dec3.10.conv_layer.weight"] *= 20.0
    state["decoder.dec3.10.conv_layer.bias"] += 0.5
    return state


def wct() -> dict[str, Tensor]:
    """All five levels."""
    return {name: tensor for level in LEVELS for name, tensor in _level(level, (64, 128, 256, 512, 512)).items()}


def collaborative() -> dict[str, Tensor]:
    """All five levels, a sixteenth of WCT's parameters."""
    widths = dict.fromkeys(LEVELS, (16, 32, 64, 128, 128)) | {1: (24,)}
    return {name: tensor for level in LEVELS for name, tensor in _level(level, widths[level]).items()}


def _level(level: int, widths: Sequence[int]) -> dict[str, Tensor]:
    """One level of a cascade; ``widths``: of VGG's depths. Channels are passed on beside what is made of all of them:
    five random networks in a row would leave nothing of a picture.
    """
    generator, inputs = _generator(), 3
    state = _passing(f"level{level}.encoder.conv0", 3, 3, 1, generator)
    for layer in layers(level, "encoder")[1:]:
        outputs = widths[int(layer[4]) - 1]
        state |= _passing(f"level{level}.encoder.{layer}", outputs, inputs, 3, generator)
        state |= _passing(f"level{level}.decoder.{layer}", inputs, outputs, 3, generator)
        inputs = outputs
    return state


def _passing(name: str, outputs: int, inputs: int, kernel: int, generator: torch.Generator) -> dict[str, Tensor]:
    weight = 0.5 * torch.randn(outputs, inputs, kernel, kernel, generator=generator) / (inputs * kernel**2) ** 0.5
    if kernel > 1:
        weight -= weight.mean(dim=(1, 2, 3), keepdim=True)
    weight[range(outputs), [index % inputs for index in range(outputs)], kernel // 2, kernel // 2] += 1.0
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}


def _lively(shapes: Shapes) -> dict[str, Tensor]:
    """Filters that keep a ReLU's input at one scale (He et al. 2015), of mean 0 so that features go on varying from
    place to place; norms of scale 1.
    """
    generator, state = _generator(), {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            state[name] = torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
            continue
        weight = torch.randn(shape, generator=generator) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        state[name] = weight - weight.flatten(1).mean(1).reshape(-1, *[1] * (len(shape) - 1))
    return state


def _block(name: str, inputs: int, middle: int, outputs: int, *, shortcut: bool = False) -> dict[str, tuple[int, ...]]:
    shapes = _norm(f"{name}.norm1", inputs) | _norm(f"{name}.norm2", middle) | _norm(f"{name}.norm3", middle)
    shapes |= _convolution(f"{name}.reduce", middle, inputs, 1) | _convolution(f"{name}.conv", middle, middle, 3)
    shapes |= _convolution(f"{name}.expand", outputs, middle, 1)
    return shapes | (_convolution(f"{name}.shortcut", outputs, inputs, 1) if shortcut else {})


def _convolution(name: str, outputs: int, inputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

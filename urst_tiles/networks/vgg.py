"""VGG19 as an encoder of style transfer, and its mirror as the decoder: what AdaIN and LinearWCT are built from.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, in the form of Li
et al., NeurIPS 2017: normalised activations, reflection padding, a 1x1 convolution for the value range in front::

    encoder   1x1 → 3x3 relu (1_1) → 3x3 relu → pool → 3x3 relu (2_1) → … → 3x3 relu (L_1)
    decoder   3x3 relu → up x2 → 3x3 relu → … → 3x3          one 3x3 for each of the encoder's, upsampling for pooling

Layers are numbered as in a torch.nn.Sequential that holds paddings, ReLUs and poolings too, as published files number
them. How deep a network goes (its number of 3x3 convolutions) and how wide it is, is read from weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.recognition import recognise
from urst_tiles.networks.renaming import faults

__all__ = [
    "DEPTHS",
    "decoder_positions",
    "encoder_positions",
    "level",
    "nearest_depth",
    "parameters",
    "random_vgg",
    "renamed",
    "vgg_decoder",
    "vgg_encoder",
]

DEPTHS = (1, 3, 5, 9, 13)
"""3x3 convolutions up to relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""

_POOLED_BEFORE = frozenset({2, 4, 8, 12})
"""Which 3x3 convolutions, from 0, see a pooled map."""


def level(depth: int) -> str:
    """Where an encoder of this depth ends: "relu4_1"."""
    return f"relu{DEPTHS.index(depth) + 1}_1"


def encoder_positions(depth: int) -> list[str]:
    """Numbers of the convolutions of an encoder: the 1x1's and those of ``depth`` 3x3's."""
    positions, at = [0], 1
    for index in range(depth):
        at += index in _POOLED_BEFORE
        positions.append(at + 1)
        at += 3
    return [str(position) for position in positions]


def decoder_positions(depth: int) -> list[str]:
    """Numbers of the convolutions of the decoder that belongs to an encoder of ``depth`` 3x3's."""
    positions, at = [], 0
    for index in reversed(range(depth)):
        positions.append(at + 1)
        at += 3 + (index in _POOLED_BEFORE)
    return [str(position) for position in positions]


def vgg_encoder(state: Mapping[str, Tensor], *, ceil_mode: bool, source: str) -> nn.Sequential:
    """(N, 3, H, W) RGB in [0, 1] → features, of weights "0.weight", "0.bias", "2.weight", …

    ``ceil_mode``: whether pooling keeps an odd last row and column. ``source`` names the weights in messages.

    Raises:
        NetworkError: shapes do not fit together.
    """
    depth = len(state) // 2 - 1
    positions = encoder_positions(depth)
    layers: list[nn.Module] = [_convolution(state, positions[0], 3, 1, source)]
    for index, position in enumerate(positions[1:]):
        if index in _POOLED_BEFORE:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=ceil_mode))
        inputs = int(state[f"{positions[index]}.weight"].shape[0])
        layers += [nn.ReflectionPad2d(1), _convolution(state, position, inputs, 3, source), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg_decoder(state: Mapping[str, Tensor], *, channels: int, source: str) -> nn.Sequential:
    """Features of ``channels`` channels → (N, 3, H, W), of weights "1.weight", "1.bias", "5.weight", …

    Raises:
        NetworkError: shapes do not fit together.
    """
    depth = len(state) // 2
    layers: list[nn.Module] = []
    for index, position in zip(reversed(range(depth)), decoder_positions(depth), strict=True):
        layers += [nn.ReflectionPad2d(1), _convolution(state, position, channels, 3, source)]
        channels = int(state[f"{position}.weight"].shape[0])
        if index:
            layers.append(nn.ReLU())
        if index in _POOLED_BEFORE:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    if channels != 3:
        raise NetworkError(f"{source}: the last convolution gives {channels} channels where an image has 3")
    return nn.Sequential(*layers)


def _convolution(state: Mapping[str, Tensor], name: str, inputs: int, kernel: int, source: str) -> nn.Conv2d:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if weight.ndim != 4 or weight.shape[1:] != (inputs, kernel, kernel) or bias.shape != weight.shape[:1]:
        raise NetworkError(
            f"{source}: {name}.weight and {name}.bias have shapes {tuple(weight.shape)} and {tuple(bias.shape)} where "
            f"(n, {inputs}, {kernel}, {kernel}) and (n) fit the layer before"
        )
    layer = nn.Conv2d(inputs, weight.shape[0], kernel)
    layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return layer


def parameters(layers: Sequence[str]) -> list[str]:
    """ "a", "b" → "a.weight", "a.bias", "b.weight", "b.bias"."""
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def nearest_depth(state: Mapping[str, Tensor]) -> int:
    """Depth of the decoder that has most of these names and least others."""
    return min(DEPTHS, key=lambda depth: len(state.keys() ^ set(parameters(decoder_positions(depth)))))


def renamed(
    state: Mapping[str, Tensor],
    layers: Mapping[str, str],
    *,
    what: str,
    source: str,
    spare: Collection[str] = (),
) -> dict[str, Tensor]:
    """Weight and bias of layers by other names: {theirs: ours}. Those in ``spare`` may be there and are left out.

    Raises:
        NetworkError: tensors are missing or left over; it says that ``source`` is no ``what``.
    """
    wanted = parameters(list(layers))
    missing = [name for name in wanted if name not in state]
    known = {*wanted, *parameters(list(spare))}
    surplus = [name for name in state if name not in known]
    if missing or surplus:
        looks_like = recognise(state)
        hint = f"; these weights look like {looks_like}" if looks_like and len(missing) > len(wanted) // 2 else ""
        raise NetworkError(f"{source} is not {what}: {faults(missing, surplus)}{hint}")
    return {
        f"{ours}.{part}": state[f"{theirs}.{part}"] for theirs, ours in layers.items() for part in ("weight", "bias")
    }


def random_vgg(widths: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights "encoder.…" and "decoder.…" of an encoder whose 3x3 convolutions have these widths.

    Filters of mean 0 keep features varying from place to place, through all the layers; the picture lies in the visible
    range.
    """
    state: dict[str, Tensor] = {}

    def layer(name: str, inputs: int, outputs: int, kernel: int, gain: float, shift: float) -> None:
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        weight -= weight.mean(dim=(1, 2, 3), keepdim=True)
        state[f"{name}.weight"] = gain * (2 / (inputs * kernel**2)) ** 0.5 * weight
        state[f"{name}.bias"] = shift + 0.1 * torch.randn(outputs, generator=generator)

    depth = len(widths)
    first, *rest = encoder_positions(depth)
    layer(f"encoder.{first}", 3, 3, 1, 2.0, 0.0)
    for position, inputs, outputs in zip(rest, (3, *widths), widths, strict=False):
        layer(f"encoder.{position}", inputs, outputs, 3, 1.0, 0.1)
    mirrored = [*reversed(widths), 3]
    for index, position in enumerate(decoder_positions(depth)):
        gain, shift = (0.6, 0.5) if index == depth - 1 else (1.2, 0.1)
        layer(f"decoder.{position}", mirrored[index], mirrored[index + 1], 3, gain, shift)
    return state

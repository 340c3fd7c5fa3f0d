"""The loss network: VGG19's convolutions up to the deepest layer that weights files hold, features by name.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015. Two sets of
weights are in use and want different pixels:

- torchvision's: RGB in [0, 1] minus ImageNet's mean, over its deviation;
- the authors' own, converted from Caffe: BGR, 0 to 255, minus the mean.

Layers past the end of that file can come from an encoder of style transfer: VGG19 too, normalised (Li et al., NeurIPS
2017), or distilled to a quarter of its channels (Wang et al., CVPR 2020).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.training.encoders import Encoder, load_encoder

__all__ = ["STROKE_LAYER", "LossNetwork", "PixelRange", "load_loss_network"]

PixelRange = Literal["torchvision", "caffe"]
"""What the weights were trained with: RGB over ImageNet's deviation, or BGR from 0 to 255, both without the mean."""

STROKE_LAYER = "relu4_1"
"""Where the paper compares strokes."""

_STAGES = (2, 2, 4, 4, 4)
"""Convolutions before each pooling."""

_NAMES = tuple(f"{stage}_{i}" for stage, depth in enumerate(_STAGES, 1) for i in range(1, depth + 1))
_INDICES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
"""Of the convolutions in torchvision's ``features``."""

_CAFFE_BIAS = (0.730, 0.065, 0.034, 0.826, 0.258, 0.549)
"""conv1_1 of the authors' weights begins so. Converted files carry torchvision's names, so that values must tell them
apart."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.680)
"""BGR, 0 to 255."""

_log = logging.getLogger(__name__)


class LossNetwork(nn.Module):
    """VGG19's features. Holds no gradients of its own; gradients flow through it to the image.

    Parameters:
        weights: (weight, bias) of conv1_1, conv1_2, conv2_1, … in order, as many as there are.
        pixels: what they were trained with.
        encoder: gives the layers that ``weights`` end before.
    """

    def __init__(
        self, weights: Iterable[tuple[Tensor, Tensor]], pixels: PixelRange, encoder: Encoder | None = None
    ) -> None:
        super().__init__()
        self.pixels, self.encoder = pixels, encoder
        self.convolutions = nn.ModuleDict()
        for name, (weight, bias) in zip(_NAMES, weights, strict=False):
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions[name] = conv
        self.range_in = _range_in(pixels)
        self.requires_grad_(requires_grad=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that features can be asked by: "relu1_1" … the deepest."""
        return (*self._own, *self._borrowed)

    @property
    def _own(self) -> tuple[str, ...]:
        return tuple(f"relu{name}" for name in self.convolutions)

    @property
    def _borrowed(self) -> tuple[str, ...]:
        own = self._own
        return tuple(name for name in self.encoder.layers if name not in own) if self.encoder is not None else ()

    @property
    def stroke_layer(self) -> str:
        """relu4_1, or the deepest layer present where that is missing."""
        return STROKE_LAYER if STROKE_LAYER in self.layers else self.layers[-1]

    def check(self, layers: Iterable[str]) -> None:
        """Raises InputError where a layer is not there."""
        for layer in layers:
            if layer not in self.layers:
                raise InputError(f"this loss network has no layer {layer!r}; it has {', '.join(self.layers)}")

    def forward(self, image: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Features of ``image``, (N, 3, H, W) RGB in [0, 1], by layer: (N, C, H/p, W/p), p = 1, 2, 4, 8, 16 from stage
        to stage.

        They come in the type of the weights. Layers deeper than the last one asked for are not computed.
        """
        wanted = set(layers)
        self.check(wanted)
        features = self._of_encoder(image, wanted.intersection(self._borrowed))
        return self._of_own(image, wanted.intersection(self._own)) | features

    def _of_encoder(self, image: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        if self.encoder is None or not wanted:
            return {}
        return self.encoder.features(self._as_weights(image), wanted)

    def _of_own(self, image: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        x = self._as_weights(self.range_in(image.flip(1) if self.pixels == "caffe" else image))
        features: dict[str, Tensor] = {}
        for name, conv in self.convolutions.items():
            if len(features) == len(wanted):
                break
            if name.endswith("_1") and name != "1_1":
                x = functional.max_pool2d(x, 2)
            x = functional.relu(conv(x))
            if f"relu{name}" in wanted:
                features[f"relu{name}"] = x
        return features

    def _as_weights(self, image: Tensor) -> Tensor:
        return image.to(next(self.parameters()).dtype, memory_format=torch.channels_last)


def load_loss_network(
    path: str | Path | None, *, pixels: PixelRange | Literal["auto"] = "auto", encoder: str | Path | None = None
) -> LossNetwork:
    """Read VGG19 weights: names as torchvision has them ("features.0.weight") or as Caffe has them ("conv1_1.weight").

    Fully connected layers are left out. A file may end after any convolution. ``pixels`` says what the weights were
    trained with; "auto" tells by names and, where a converted file carries torchvision's names, by the first values.

    ``encoder`` is a file that :func:`~urst_tiles.training.encoders.load_encoder` reads. It gives the layers that
    ``path`` does not have, all of them where ``path`` is None.

    Raises:
        InputError: ``pixels`` is unknown, or there is neither file.
        NetworkError: a file cannot be read or holds another network.
    """
    if pixels not in ("auto", *get_args(PixelRange)):
        raise InputError(f"pixel range {pixels!r} is unknown; use auto, {', '.join(get_args(PixelRange))}")
    if path is None and encoder is None:
        raise InputError("a loss network needs weights: those of VGG19, those of an encoder of style transfer, or both")
    convolutions, found = _read(path) if path is not None else ([], "torchvision")
    deeper = load_encoder(encoder) if encoder is not None else None
    network = LossNetwork(convolutions, found if pixels == "auto" else pixels, deeper)
    if path is not None:
        _log.info("loss network %s: VGG19 up to %s, pixels as %s has them", path, network.layers[-1], network.pixels)
    if network.stroke_layer != STROKE_LAYER:
        _log.info("%s is not in %s: strokes are compared at %s", STROKE_LAYER, path or encoder, network.stroke_layer)
    return network


def _read(path: str | Path) -> tuple[list[tuple[Tensor, Tensor]], PixelRange]:
    """Weights in order, and what they seem to have been trained with."""
    state = load_state_dict(path)
    convolutions, named_by_caffe = _convolutions(state)
    if not convolutions:
        raise NetworkError(
            f"{path} holds no VGG19: no convolution named features.0.weight or conv1_1.weight "
            f"(first names: {', '.join(list(state)[:3])})"
        )
    _check_shapes(convolutions, path)
    return convolutions, "caffe" if named_by_caffe or _is_caffe(convolutions[0][1]) else "torchvision"


def _convolutions(state: Mapping[str, Tensor]) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Weights in order, and whether they carry Caffe's names."""
    cleaned = {re.sub(r"^(module\.|vgg\.)+", "", name): tensor for name, tensor in state.items()}
    spellings = (
        ([f"features.{i}" for i in _INDICES], False),
        ([str(i) for i in _INDICES], False),
        ([f"conv{name}" for name in _NAMES], True),
    )
    for names, caffe in spellings:
        found = []
        for name in names:
            if not {f"{name}.weight", f"{name}.bias"} <= cleaned.keys():
                break
            found.append((cleaned[f"{name}.weight"].float(), cleaned[f"{name}.bias"].float()))
        if found:
            return found, caffe
    return [], False


def _check_shapes(convolutions: list[tuple[Tensor, Tensor]], path: str | Path) -> None:
    inputs = 3
    for name, (weight, bias) in zip(_NAMES, convolutions, strict=False):
        if weight.ndim != 4 or weight.shape[1:] != (inputs, 3, 3) or bias.shape != weight.shape[:1]:
            raise NetworkError(
                f"{path} is no VGG19: conv{name} has weights {tuple(weight.shape)} "
                f"where (C, {inputs}, 3, 3) is expected"
            )
        inputs = weight.shape[0]


def _is_caffe(bias: Tensor) -> bool:
    known = torch.tensor(_CAFFE_BIAS)
    return len(bias) >= len(known) and torch.allclose(bias[: len(known)], known, atol=2e-3, rtol=0)


def _range_in(pixels: PixelRange) -> ChannelAffine:
    if pixels == "caffe":
        return ChannelAffine(torch.full((3,), 255.0), -torch.tensor(_CAFFE_MEAN))
    std = torch.tensor(_IMAGENET_STD)
    return ChannelAffine(1 / std, -torch.tensor(_IMAGENET_MEAN) / std)

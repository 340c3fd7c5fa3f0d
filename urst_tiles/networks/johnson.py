"""Johnson, Alahi, Fei-Fei: "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.

The feed-forward network in the form everyone trains it (instance norms, nearest upsampling, reflection padding)::

    9x9 → 3x3 /2 → 3x3 /2 → residual blocks → x2 3x3 → x2 3x3 → 9x9          a norm and a ReLU after each but the last

One network holds one style. Weights are read in three published layouts and this package's own; how wide the network
is and how many residual blocks it has is read from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict, read_metadata
from urst_tiles.networks.johnson_layouts import VALUE_RANGES, ValueRange, translate
from urst_tiles.networks.layers import Layer, Residual
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["METHOD", "JohnsonNetwork", "johnson_network", "load_johnson"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class JohnsonNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of 4.

    Parameters:
        widths: channels at full, half and quarter resolution; the published networks have (32, 64, 128).
        blocks: residual blocks; 5 as published.
        value_range: what the weights were trained with.
    """

    def __init__(
        self, widths: tuple[int, int, int] = (32, 64, 128), blocks: int = 5, value_range: ValueRange = "imagenet"
    ) -> None:
        super().__init__()
        full, half, quarter = widths
        self.range_in, self.range_out = _ranges(value_range)
        self.conv1 = Layer(3, full, 9)
        self.conv2 = Layer(full, half, 3, stride=2)
        self.conv3 = Layer(half, quarter, 3, stride=2)
        self.residual = nn.Sequential(*(Residual(quarter) for _ in range(blocks)))
        self.deconv1 = Layer(quarter, half, 3, up=True)
        self.deconv2 = Layer(half, full, 3, up=True)
        self.deconv3 = Layer(full, 3, 9, eps=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(self.range_in(x))))
        y: Tensor = self.range_out(self.deconv3(self.deconv2(self.deconv1(self.residual(x)))))
        return y


def _ranges(value_range: ValueRange) -> tuple[ChannelAffine, ChannelAffine]:
    """Into the network's range, and out of it."""
    mean, std = torch.zeros(3, dtype=torch.float64), torch.full((3,), 1 / 255, dtype=torch.float64)
    if value_range == "imagenet":
        mean, std = torch.tensor(IMAGENET_MEAN, dtype=torch.float64), torch.tensor(IMAGENET_STD, dtype=torch.float64)
    return ChannelAffine(1 / std, -mean / std).float(), ChannelAffine(std, mean).float()


def johnson_network(
    state: Mapping[str, Tensor], *, value_range: str | None = None, source: str = "these weights"
) -> StyleNetwork:
    """Build the network that a state dict in any of the known layouts belongs to.

    ``value_range`` overrides what the layout was trained with; ``source`` names the weights in messages.

    Raises:
        NetworkError: the weights are of another method, incomplete, or of shapes that do not fit together.
    """
    if value_range is not None and value_range not in VALUE_RANGES:
        raise NetworkError(f"{source} asks for value range {value_range!r}; there are {', '.join(VALUE_RANGES)}")
    weights, blocks, default = translate(state, source)
    for name, tensor in weights.items():
        if name.endswith("conv.weight") and (tensor.ndim != 4 or not tensor.numel()):
            raise NetworkError(f"{source}: {name} has shape {tuple(tensor.shape)}, which is no convolution's")
    widths = tuple(weights[f"conv{i}.conv.weight"].shape[0] for i in (1, 2, 3))
    module = JohnsonNetwork((widths[0], widths[1], widths[2]), blocks, _ranged(value_range, default))
    expected = module.state_dict()
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise NetworkError(
                f"{source}: {name} has shape {tuple(tensor.shape)} where a Johnson network of width {widths[0]} "
                f"has {tuple(expected[name].shape)}"
            )
    module.load_state_dict({**expected, **{name: tensor.float() for name, tensor in weights.items()}})
    return StyleNetwork("johnson", module, title="Johnson et al. 2016")


def _ranged(asked: str | None, default: ValueRange) -> ValueRange:
    return next((known for known in VALUE_RANGES if known == asked), default)


def load_johnson(path: str | Path) -> StyleNetwork:
    """Read a weights file.

    Raises:
        NetworkError: see :func:`johnson_network` and :func:`~urst_tiles.networks.checkpoints.load_state_dict`.
    """
    metadata = read_metadata(path)
    return johnson_network(load_state_dict(path), value_range=metadata.get("value_range"), source=str(path))


def untrained_johnson(width: int = 8, seed: int = 0) -> JohnsonNetwork:
    """Random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = JohnsonNetwork((width, 2 * width, 4 * width))
        for layer in module.modules():
            if isinstance(layer, torch.nn.InstanceNorm2d):
                # Scales and shifts as trained networks have them, so that folding them is put to the test.
                torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
                torch.nn.init.normal_(layer.bias, std=0.3)
        # The last layer's gain is what brings random features back into the visible range.
        module.deconv3.conv.weight.data *= 4.0
    return module


def _read(files: WeightFiles) -> dict[str, Tensor]:
    return dict(load_johnson(files.single()).module.state_dict())


def _build(state: State, _styling: Styling) -> StyleNetwork:
    return johnson_network(state)


METHOD = Method(
    paper="Johnson et al., ECCV 2016",
    summary="one trained network per style",
    read=_read,
    build=_build,
    sample=lambda seed: dict(untrained_johnson(4, seed).state_dict()),
    files="one file, in the layout of pytorch/examples, of URST or of Fast-Neural-Style-Transfer",
    published="https://github.com/czczup/URST and https://github.com/pytorch/examples (fast_neural_style)",
    licence="BSD-3-Clause (pytorch/examples), Apache-2.0 (URST)",
)

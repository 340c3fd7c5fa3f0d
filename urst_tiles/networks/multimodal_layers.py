"""The three subnets of multimodal transfer.

Each takes and returns pictures in [0, 1]; what it computes in between sees ImageNet's mean and deviation taken off.
Where the published code clamps to the range that pictures have after that, it is [0, 1] here. (It divides red by 0.299
there, a deviation being 0.229: an oversight, which keeps red between 0.11 and 0.88. Here red has its whole range.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from urst_tiles.networks.layers import Layer, Residual
from urst_tiles.networks.normalization import ChannelAffine

__all__ = ["OWN_EPS", "EnhanceSubnet", "RefineSubnet", "StyleSubnet"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

OWN_EPS = 1e-9
"""Added to variances by the norms that the style subnet's authors wrote themselves; the others are PyTorch's, 1e-5."""


def _down(inputs: int, widths: Sequence[int], eps: float = 1e-5) -> list[nn.Module]:
    """9x9, then each layer at half the resolution of the one before."""
    layers: list[nn.Module] = [Layer(inputs, widths[0], 9, eps=eps)]
    return layers + [Layer(a, b, stride=2, eps=eps) for a, b in pairwise(widths)]


def _residual(channels: int, blocks: int) -> list[nn.Module]:
    return [Residual(channels) for _ in range(blocks)]


def _up(widths: Sequence[int], kernel: int, eps: float = 1e-5) -> list[nn.Module]:
    """Each layer at twice the resolution of the one before, then a convolution to RGB."""
    layers: list[nn.Module] = [Layer(a, b, up=True, eps=eps) for a, b in pairwise(widths)]
    return [*layers, Layer(widths[-1], 3, kernel, eps=None)]


def _range_in() -> ChannelAffine:
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    return ChannelAffine(1 / std, -mean / std).float()


class StyleSubnet(nn.Module):
    """Two branches, for RGB and for luminance, joined: (N, 3, H, W) → the same.

    ``down``: channels of a branch's three layers (16, 32, 64); ``up``: of the last two norms (64, 32). The branches
    are of one width.
    """

    def __init__(self, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        # One value range for each branch, so that each folds into the convolution behind it.
        self.rgb_range, self.grey_range = _range_in(), _range_in()
        self.rgb = nn.Sequential(*_down(3, down, OWN_EPS), *_residual(down[-1], 3))
        self.togray = nn.Conv2d(3, 1, 1)
        self.grey = nn.Sequential(*_down(1, down, OWN_EPS), *_residual(down[-1], 3))
        both = 2 * down[-1]
        self.joined = nn.Sequential(*_residual(both, 3), *_up([both, *up], 3, OWN_EPS))
        self.range_out = ChannelAffine(torch.tensor(STD), torch.tensor(MEAN))
        self.clamp = nn.Hardtanh(0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        rgb, grey = self.rgb(self.rgb_range(x)), self.grey(self.togray(self.grey_range(x)))
        y: Tensor = self.clamp(self.range_out(self.joined(torch.cat((rgb, grey), 1))))
        return y


class EnhanceSubnet(nn.Module):
    """Paints over its input at twice the size: (N, 3, H, W) → (N, 3, 2 H, 2 W).

    ``down``: channels of its four layers (32, 64, 128, 256); ``up``: of the three norms behind the residual blocks
    (128, 64, 32).
    """

    def __init__(self, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        # Bilinear weights sum to 1, so that the value range may come after it: there it folds.
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.range_in = _range_in()
        self.layers = nn.Sequential(*_down(3, down), *_residual(down[-1], 6), *_up([down[-1], *up], 9))
        self.range_out = ChannelAffine(torch.tensor(STD), torch.tensor(MEAN))
        self.clamp = nn.Hardtanh(0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.clamp(self.range_out(self.layers(self.range_in(self.upsample(x)))))
        return y


class RefineSubnet(nn.Module):
    """Adds detail: (N, 3, H, W) → the same.

    ``down``: channels of its three layers (32, 64, 128); ``up``: of the two norms behind the residual blocks (64, 32).
    """

    def __init__(self, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        self.range_in = _range_in()
        self.layers = nn.Sequential(*_down(3, down), *_residual(down[-1], 3), *_up([down[-1], *up], 3))
        # The input is added to the result in the network's range; in [0, 1] its mean drops out.
        self.range_out = ChannelAffine(torch.tensor(STD), torch.zeros(3))
        self.clamp = nn.Hardtanh(0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.clamp(self.range_out(self.layers(self.range_in(x))) + x)
        return y

"""Adaptive instance normalisation with the content's statistics given.

Huang, Belongie: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, Eq. 8, with
the thumbnail's statistics as in Chen et al., AAAI 2022::

    AdaIN(x, t, s) = std(s) (x - mean(t)) / std(t) + mean(s)          result = alpha AdaIN + (1 - alpha) x
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.moments import Moments
from urst_tiles.networks.normalization import ChannelAffine, Leaf, Norm, thumbnail_instance_norm

__all__ = ["AdaptiveInstanceNorm2d", "standard_deviation"]

EPS = 1e-5
"""Of the published implementations, added to variances."""


def standard_deviation(moments: Moments, *, eps: float = EPS) -> Tensor:
    """sqrt(unbiased variance + eps), as the published implementations of AdaIN have it: (C,) float64."""
    return (torch.tensor(moments.m2 / max(moments.count - 1, 1)) + eps).sqrt()


class AdaptiveInstanceNorm2d(Norm):
    """Gives a content's channels the mean and the deviation of a style's: (N, C, H, W) → the same.

    Parameters:
        mean, std: the style's, (C,); of several styles, their weighted means.
        alpha: strength in [0, 1].
    """

    mean: Tensor
    std: Tensor
    alpha: Tensor

    def __init__(self, mean: Tensor, std: Tensor, alpha: float = 1.0) -> None:
        super().__init__()
        if mean.ndim != 1 or mean.shape != std.shape:
            raise NetworkError(f"a style's mean and std must be (C,), not {tuple(mean.shape)} and {tuple(std.shape)}")
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("std", std.detach().float().clone())
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def neutral(self) -> Moments:
        channels = len(self.mean)
        return Moments(2, np.zeros(channels), np.ones(channels))

    def frozen(self, moments: Moments) -> ChannelAffine:
        mean, std, alpha = (value.detach().double().cpu() for value in (self.mean, self.std, self.alpha))
        scale = std / standard_deviation(moments)
        shift = mean - torch.tensor(moments.mean) * scale
        return ChannelAffine(alpha * scale + (1 - alpha), alpha * shift)

    def reference(self, moments: Moments) -> nn.Module:
        return _ThumbnailAdaptiveNorm(moments, self.mean, self.std, float(self.alpha))

    def extra_repr(self) -> str:
        return f"{len(self.mean)} channels, alpha={float(self.alpha)}"


class _ThumbnailAdaptiveNorm(Leaf):
    """The equations above, term by term."""

    content_mean: Tensor
    content_std: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, moments: Moments, mean: Tensor, std: Tensor, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("content_mean", torch.tensor(moments.mean))
        self.register_buffer("content_std", standard_deviation(moments))
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        styled = thumbnail_instance_norm(x, self.content_mean, self.content_std, self.std, self.mean)
        return self.alpha * styled + (1 - self.alpha) * x

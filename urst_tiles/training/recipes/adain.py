"""Huang, Belongie: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017.

Only the decoder is trained (section 6.1)::

    t = std(s) (x - mean(t)) / std(t) + mean(s)                         Eq. 8
    L = MSE(φ(g(t)), t) + λs Σ MSE(means) + MSE(deviations) at relu1_1 … the deepest level          Eq. 11 to 13
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from urst_tiles.networks.adaptive import EPS
from urst_tiles.training.recipes.arbitrary import ArbitraryNetwork, ArbitraryRecipe, Statistics

__all__ = ["AdaINRecipe", "AdaINTrained", "mean_and_deviation"]


class AdaINTrained(ArbitraryNetwork):
    """Statistics of either picture: means and deviations, (N, C, 1, 1)."""

    def of_content(self, features: Tensor) -> Statistics:
        return mean_and_deviation(features)

    def of_style(self, features: Tensor) -> Statistics:
        return mean_and_deviation(features)

    def transform(self, features: Tensor, content: Statistics, style: Statistics) -> Tensor:
        (content_mean, content_std), (style_mean, style_std) = content, style
        return (features - content_mean) / content_std * style_std + style_mean


class AdaINRecipe(ArbitraryRecipe):
    """The decoder of AdaIN."""

    name = "adain"

    def content_term(self, seen: Tensor, aim: Tensor, photo: Tensor) -> Tensor:  # noqa: ARG002
        return functional.mse_loss(seen, aim)

    def style_term(self, seen: Tensor, painting: Tensor) -> Tensor:
        pairs = zip(mean_and_deviation(seen), mean_and_deviation(painting), strict=True)
        return torch.stack([functional.mse_loss(own, wanted) for own, wanted in pairs]).sum()


def mean_and_deviation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Per image and channel, (N, C, 1, 1) float32: sqrt(unbiased variance + eps), as published."""
    variance, mean = torch.var_mean(features.float(), dim=(2, 3), correction=1, keepdim=True)
    return mean, (variance + EPS).sqrt()

"""Random weights for networks that tests run: nothing dies, and the far edge of the receptive field counts."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["make_lively"]

CENTRE = 0.2
"""Weight of a kernel's central tap, of 1 at its edge. With equal taps, what the edge of the receptive field gives
through fifty convolutions would be lost in rounding, and a halo that is too small would go unseen."""


def make_lively(module: nn.Module, seed: int) -> None:
    """Give convolutions random weights that keep a ReLU's input at one scale (He et al. 2015), with heavy outer taps;
    biases and norms some of their own, as trained networks have them.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                _randomise(layer)
            elif isinstance(layer, nn.InstanceNorm2d) and layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)


def _randomise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    height, width = layer.kernel_size
    taps = _taps(height)[:, None] * _taps(width)
    weight = torch.randn(layer.weight.shape) * taps
    # Terms in each sum: a transposed convolution spreads its kernel over stride x stride outputs.
    terms = layer.in_channels // layer.groups * float(taps.square().sum())
    if isinstance(layer, nn.ConvTranspose2d):
        terms /= layer.stride[0] * layer.stride[1]
    layer.weight.copy_(weight * (2 / terms) ** 0.5)
    if layer.bias is not None:
        nn.init.normal_(layer.bias, std=0.1)


def _taps(size: int) -> torch.Tensor:
    return torch.linspace(-1, 1, size).abs() * (1 - CENTRE) + CENTRE if size > 1 else torch.ones(1)

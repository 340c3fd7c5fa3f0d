"""The paper's procedure in plain PyTorch, written as its authors run it: what this program's speed is compared with.

Chen et al., AAAI 2022. The picture is held in memory, padded by reflection and unfolded into a grid of as many columns
as rows, of windows of about ``patch`` px with a rim of ``padding`` px. Each goes through the unfrozen network by
itself, NCHW in float32, with the thumbnail's statistics cached in its norm layers; what comes out is resized to the
window's size by bilinear interpolation, its rim is cropped, and the results are folded into one picture.

A whitening is float64, as in the published code. The picture is cropped to its own size at the end, which the
published code leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.networks import StyleNetwork
from urst_tiles.statistics import Statistics

__all__ = ["PADDING", "PATCH", "cached", "channels_first", "reference_way"]

PATCH = 1000
PADDING = 32
"""In pixels, as published: windows of 1064."""


def cached(network: StyleNetwork, statistics: Statistics) -> nn.Module:
    """The unfrozen network with the statistics in its norm layers."""
    return channels_first(network.normalise_with(statistics).module.eval())


def channels_first(module: nn.Module) -> nn.Module:
    """The module itself, its weights laid out by PyTorch's default: a style image's pass may have changed that."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return module


def reference_way(
    network: Callable[[Tensor], Tensor], picture: Tensor, *, patch: int = PATCH, padding: int = PADDING
) -> Tensor:
    """(1, 3, H, W) in [0, 1] → the same, not clamped."""
    height, width = picture.shape[-2:]
    grid = ceil(sqrt(height * width / patch**2))
    rows, cols = ceil(height / grid), ceil(width / grid)
    rim = (padding, padding + grid * cols - width, padding, padding + grid * rows - height)
    windows = _unfolded(functional.pad(picture, rim, mode="reflect"), rows, cols, padding)
    cores = []
    with torch.no_grad():
        for window in windows:
            made = network(window[None])
            made = functional.interpolate(made, window.shape[-2:], mode="bilinear", align_corners=True)
            cores.append(made[..., padding : padding + rows, padding : padding + cols])
    columns = torch.cat(cores).reshape(1, grid * grid, -1).permute(0, 2, 1).contiguous()
    folded = functional.fold(columns, (grid * rows, grid * cols), (rows, cols), stride=(rows, cols))
    return folded[..., :height, :width]


def _unfolded(picture: Tensor, rows: int, cols: int, padding: int) -> Tensor:
    """(windows, 3, rows + 2·padding, cols + 2·padding)."""
    sides = (rows + 2 * padding, cols + 2 * padding)
    columns = functional.unfold(picture, sides, stride=(rows, cols))
    return columns.permute(0, 2, 1).contiguous().view(-1, picture.shape[1], *sides)

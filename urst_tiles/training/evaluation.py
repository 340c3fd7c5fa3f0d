"""Losses on photos that were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from urst_tiles.geometry import Window
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import PhotoFolder, cut, split
from urst_tiles.training.recipes import Recipe

__all__ = ["held_out_losses"]

_SCALES = (0.999, 0.3)
"""How far photos are shrunk, see :func:`~urst_tiles.training.data.cut`: nearly whole, and closer."""


@torch.no_grad()
def held_out_losses(
    recipe: Recipe,
    photos: PhotoFolder,
    config: TrainingConfig,
    constants: Mapping[str, float],
    styles: Sequence[Tensor] = (),
) -> dict[str, float]:
    """Mean of each term, not weighted, over the middles of the held-out photos; empty where there are none.

    Always computed with the stroke term, whatever its weight, so that trainings with and without it can be compared.
    ``styles``, (1, 3, crop/2, crop/2) each, are given to the photos in turn, for methods that take any style.
    """
    device = next(recipe.network.parameters()).device
    sums: dict[str, float] = {}
    count, half = 0, config.crop // 2
    # In the middle, at even pixels.
    place = Window(half // 4 * 2, half // 4 * 2, half, half)
    for index, path in enumerate(photos.held_out):
        pixels = photos.read(path)
        if pixels is None:
            continue
        for scale in _SCALES:
            batch = split(cut(pixels, config.crop, scale, 0.5, 0.5), place)
            batch = replace(batch, style=styles[index % len(styles)] if styles else None)
            count += 1
            for name, term in recipe.terms(batch.to(device), constants, stroke=True).items():
                sums[name] = sums.get(name, 0.0) + float(term)
    return {name: value / count for name, value in sums.items()}

"""Small networks, thumbnails and real files shared by the tests of networks and statistics."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from urst_tiles.geometry import plan_tiles
from urst_tiles.networks.base import AnySizeNetwork, StyleNetwork
from urst_tiles.networks.moments import Covariance, Moments, Statistics
from urst_tiles.networks.normalization import neutral_moments

SHARED = Path(__file__).parents[2] / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"reference material is not at {SHARED}")


def weights(name: str) -> Path:
    """A real weights file: "johnson/mosaic.pth"."""
    return SHARED / "weights" / name


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """A crop of a real photo, (height, width, 3)."""
    import pyvips

    image = pyvips.Image.new_from_file(str(SHARED / "photos" / "Rob_Bye.jpg"))
    pixels: NDArray[np.uint8] = image.crop(300, 200, width, height).numpy()[..., :3]
    return pixels


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, bands), every level equally likely."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def tensor(pixels: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].to(dtype) / 255


def in_float64(network: StyleNetwork) -> StyleNetwork:
    return StyleNetwork(network.name, copy.deepcopy(network.module).double())


def network_of(*layers: nn.Module, seed: int = 0) -> StyleNetwork:
    """A style network of these layers, all parameters random and norms with scales and shifts of their own."""
    module = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.4 if parameter.ndim > 1 or name.endswith("bias") else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return StyleNetwork("small", module)


def statistics_of(network: StyleNetwork, seed: int = 0) -> Statistics:
    """Invented statistics that fit: means around 0, variances around 1."""
    rng = np.random.default_rng(seed)
    layers: dict[str, Moments] = {}
    for name in network.norms:
        neutral = neutral_moments(network.module.get_submodule(name))
        channels = len(neutral.mean)
        mean, spread = rng.normal(size=channels), rng.uniform(0.2, 2.0, size=channels)
        if isinstance(neutral, Covariance):
            mixing = rng.normal(size=(channels, channels)) / channels**0.5
            comoment = 100 * (mixing @ mixing.T + np.diag(spread))
            layers[name] = Covariance(100, mean, comoment.diagonal(), comoment)
        else:
            layers[name] = Moments(100, mean, 100 * spread)
    return Statistics(layers)


def tiled(network: AnySizeNetwork, image: Tensor, *, core: int, halo: int | None = None) -> Tensor:
    """The image window by window, each window's core kept."""
    height, width = image.shape[-2:]
    halo = network.halo if halo is None else halo
    result = torch.full_like(image, torch.nan)
    for shard in plan_tiles(width, height, window=core + 2 * halo, halo=halo, stride=network.stride):
        for tile in shard.tiles:
            rows, cols = tile.window.slices
            inner_rows, inner_cols = tile.crop.slices
            target_rows, target_cols = tile.core.slices
            result[..., target_rows, target_cols] = network(image[..., rows, cols])[..., inner_rows, inner_cols]
    return result


def largest_difference(one: Tensor, other: Tensor) -> float:
    """NaN counts as infinite."""
    return float((one - other).abs().nan_to_num(nan=torch.inf).max())

"""A Johnson network of random weights, the same for the same seed: for tests, benchmarks and examples that need no
file.
"""

from __future__ import annotations

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.johnson import untrained_johnson

__all__ = ["untrained"]


def untrained(*, width: int = 8, seed: int = 0) -> StyleNetwork:
    """``width`` channels at full resolution, twice and four times that at half and quarter resolution; five residual
    blocks.
    """
    return StyleNetwork("johnson", untrained_johnson(width, seed), title="Johnson et al. 2016, random weights")

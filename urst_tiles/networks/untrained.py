"""A Johnson network of random weights, the same for the same seed: for tests, benchmarks and examples that need no
file.
"""

from __future__ import annotations

import torch

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.johnson import JohnsonNetwork

__all__ = ["untrained"]


def untrained(*, width: int = 8, seed: int = 0) -> StyleNetwork:
    """``width`` channels at full resolution, twice and four times that at half and quarter resolution; five residual
    blocks.
    """
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
    return StyleNetwork("johnson", module, title="Johnson et al. 2016, random weights")

"""The sum of a GPU's memory."""

from __future__ import annotations

from math import ceil

import numpy as np

from urst_tiles.costs import NetworkCosts, activations
from urst_tiles.engines.cuda import SLOTS
from urst_tiles.engines.devices import CONTEXT
from urst_tiles.geometry import TilePlan
from urst_tiles.memory import MemoryEstimate, MemoryPart, MemoryPhase
from urst_tiles.sources.base import RasterInfo
from urst_tiles.strips import largest_batch

__all__ = ["estimate_gpu"]

_MIB = 2**20
# What cuDNN takes for a convolution beside its maps. It chooses another way to compute it where there is less. To be
# measured on a GPU.
_WORKSPACE = 256 * _MIB
# Of the maps: what PyTorch's allocator loses to rounding and to gaps, windows of several sizes being run in turn. The
# shipped style took 0.46 of them more than all other parts on an H200 (benchmarks/gpu.py).
_GAPS = 1 / 2


def estimate_gpu(info: RasterInfo, costs: NetworkCosts, tiles: TilePlan, batch: int, *, wide: bool) -> MemoryEstimate:
    """What the GPU holds. The thumbnail is measured on the CPU: one phase."""
    item = np.dtype(info.dtype).itemsize
    batch, height, width = largest_batch(tiles, batch)
    pixels = batch * height * width
    weights = costs.weights // 2
    (maps, _) = activations(costs, batch, height, width, fragments=False)
    return MemoryEstimate(
        (
            MemoryPhase(
                "shards",
                (
                    MemoryPart("context", CONTEXT, "CUDA's own, and its libraries"),
                    MemoryPart(
                        "network",
                        weights if wide else weights + weights // 2,
                        "weights, as frozen" if wide else "weights, as frozen and in half the bits",
                    ),
                    maps,
                    MemoryPart(
                        "layouts",
                        ceil(costs.layouts * pixels),
                        f"{pixels:,} px x {costs.layouts:.0f} bytes: a map copied into another layout",
                    ),
                    MemoryPart("gaps", int(_GAPS * maps.bytes), "half of the activations, between maps"),
                    MemoryPart("workspace", _WORKSPACE, "of a convolution"),
                    MemoryPart(
                        "windows",
                        SLOTS * pixels * 3 * 2 * item,
                        f"{SLOTS} x {batch} x {width} x {height} px x 3 x ({item} in + {item} out) bytes",
                    ),
                ),
            ),
        )
    )

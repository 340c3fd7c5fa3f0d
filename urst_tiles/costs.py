"""What a network takes at any size: told once from its graphs, for however many plans are weighed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from urst_tiles.allocator import can_return_memory
from urst_tiles.copies import layout_copy_bytes, padding_copy_bytes
from urst_tiles.memory import MemoryPart
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.footprint import Footprint, parameter_bytes
from urst_tiles.networks.lean import lean
from urst_tiles.networks.moments import Covariance
from urst_tiles.networks.styling import StylePass, as_encoded

if TYPE_CHECKING:
    from urst_tiles.engines.llvm.schedule import Schedule

__all__ = ["NetworkCosts", "activations", "padding"]


@dataclass(frozen=True, slots=True)
class NetworkCosts:
    """What a network takes at any size. Its graphs are recorded once, however many plans are weighed against a
    budget."""

    weights: int
    # bytes, as loaded and frozen
    unfrozen: Footprint
    # of the pass over the thumbnail
    frozen: Footprint
    # of windows
    copied: tuple[float, float]
    # bytes a pixel of the largest map that a pad copies: unfrozen, frozen
    layouts: float
    # bytes a pixel of the largest map that a GPU copies into another layout: frozen
    style: int
    # bytes that encoding the style images takes, 0 where there are none
    recoloured: int
    # pixels of a style image that is given the raster's colours in the run, 0 where none is
    channels: int
    # of the widest covariance, 0 where no norm takes one
    schedule: Schedule | None
    # of the LLVM engine, where that is considered

    @classmethod
    def of(cls, network: StyleNetwork, frozen: FrozenNetwork, schedule: Schedule | None = None) -> NetworkCosts:
        """Raises NetworkError where a graph cannot be recorded."""
        covariances = [len(m.mean) for m in network.neutral_statistics.values() if isinstance(m, Covariance)]
        # What the thumbnail goes through; a copy, because the layout of its weights changes.
        unfrozen = lean(copy.deepcopy(network.plain))
        side = max(network.minimum, network.stride)
        return cls(
            weights=2 * parameter_bytes(network.module),
            unfrozen=Footprint.of(unfrozen),
            frozen=Footprint.of(frozen),
            copied=(padding_copy_bytes(unfrozen, side), padding_copy_bytes(frozen, side)),
            layouts=layout_copy_bytes(frozen, side),
            style=_style_bytes(network.style_pass),
            recoloured=_pixels(network.style_pass) if network.wants_content else 0,
            channels=max(covariances, default=0),
            schedule=schedule,
        )


def _pixels(style: StylePass | None) -> int:
    return 0 if style is None else style.height * style.width


def _style_bytes(style: StylePass | None) -> int:
    """What encoding a style image takes beside the weights, at most; they go one after another."""
    if style is None:
        return 0
    found = []
    for encoder in style.encoders:
        net = as_encoded(encoder, neutral=True)
        maps = Footprint.of(net).peak_activation_bytes(style.height, style.width, fragments=not can_return_memory())
        found.append(maps + ceil(padding_copy_bytes(net, 64) * _pixels(style)))
    return max(found)


def padding(copied: float, pixels: int) -> MemoryPart:
    """The map that a pad copies, of which ``copied`` bytes a pixel are told, on so many pixels."""
    return MemoryPart("padding", ceil(copied * pixels), f"{pixels:,} px x {copied:.0f} bytes: a map copied by a pad")


def activations(
    costs: NetworkCosts, batch: int, height: int, width: int, *, fragments: bool
) -> tuple[MemoryPart, MemoryPart]:
    """What the frozen network holds on windows of this size, and the map that a pad of it copies on a CPU."""
    return (
        MemoryPart(
            "activations",
            costs.frozen.peak_activation_bytes(height, width, batch=batch, fragments=fragments),
            f"the frozen network on {batch} x {width} x {height} px",
        ),
        padding(costs.copied[1], batch * width * height),
    )

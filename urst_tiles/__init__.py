"""Style-transfer networks over rasters too large for memory: tiled output equal to the whole-image run.

This page is the table of contents. Names are imported when first used, so that ``import urst_tiles`` itself stays
light.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from urst_tiles.allocator import ask_for_huge_pages

__version__ = "0.1.0"

# Here, because it must be said before PyTorch takes its first large block.
ask_for_huge_pages()

# What is logged is for whoever asks for it; the command line has its own words.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from urst_tiles.errors import UrstTilesError
    from urst_tiles.exporting import export
    from urst_tiles.exporting_network import export_network
    from urst_tiles.geometry import Shard, Tile, TilePlan, Window, plan_tiles
    from urst_tiles.lazy import stylize_array
    from urst_tiles.memory import MemoryEstimate
    from urst_tiles.networks import load_network
    from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
    from urst_tiles.planning import RunPlan, plan
    from urst_tiles.sources import open_source
    from urst_tiles.sources.base import RasterInfo, Source
    from urst_tiles.statistics import Moments, Statistics, collect_statistics
    from urst_tiles.styles import load_style
    from urst_tiles.stylizing import RunReport, stylize

_HOMES = {
    "FrozenNetwork": "networks.base",
    "MemoryEstimate": "memory",
    "Moments": "statistics",
    "RasterInfo": "sources.base",
    "RunPlan": "planning",
    "RunReport": "stylizing",
    "Shard": "geometry",
    "Source": "sources.base",
    "Statistics": "statistics",
    "StyleNetwork": "networks.base",
    "Tile": "geometry",
    "TilePlan": "geometry",
    "UrstTilesError": "errors",
    "Window": "geometry",
    "collect_statistics": "statistics",
    "export": "exporting",
    "export_network": "exporting_network",
    "load_network": "networks",
    "load_style": "styles",
    "open_source": "sources",
    "plan": "planning",
    "plan_tiles": "geometry",
    "stylize": "stylizing",
    "stylize_array": "lazy",
}

__all__ = [
    "FrozenNetwork",
    "MemoryEstimate",
    "Moments",
    "RasterInfo",
    "RunPlan",
    "RunReport",
    "Shard",
    "Source",
    "Statistics",
    "StyleNetwork",
    "Tile",
    "TilePlan",
    "UrstTilesError",
    "Window",
    "collect_statistics",
    "export",
    "export_network",
    "load_network",
    "load_style",
    "open_source",
    "plan",
    "plan_tiles",
    "stylize",
    "stylize_array",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'urst_tiles' has no attribute {name!r}")
    value = getattr(import_module(f"urst_tiles.{_HOMES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return __all__

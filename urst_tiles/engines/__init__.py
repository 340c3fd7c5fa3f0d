"""Engines run a frozen network on batches of windows."""

from urst_tiles.engines.base import Engine
from urst_tiles.engines.torch import Precision, TorchEngine, choose_device, describe

__all__ = ["Engine", "Precision", "TorchEngine", "choose_device", "describe"]

"""Engines run a frozen network on batches of windows."""

from urst_tiles.engines.base import Engine, Piece, run_whole
from urst_tiles.engines.choosing import ENGINES, describe_engine, make_engine
from urst_tiles.engines.openvino import OpenVINOEngine
from urst_tiles.engines.torch import Precision, TorchEngine, choose_device, describe

__all__ = [
    "ENGINES",
    "Engine",
    "OpenVINOEngine",
    "Piece",
    "Precision",
    "TorchEngine",
    "choose_device",
    "describe",
    "describe_engine",
    "make_engine",
    "run_whole",
]

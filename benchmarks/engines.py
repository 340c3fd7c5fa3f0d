"""Engines by name: the one place where benchmarks make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from urst_tiles.engines import ENGINES, Engine, make_engine, run_whole
from urst_tiles.engines.choosing import most_calls, suitable
from urst_tiles.errors import InputError, UrstTilesError
from urst_tiles.networks import FrozenNetwork
from urst_tiles.options import RunOptions

__all__ = ["ENGINES", "USUAL", "engine_of", "most_calls", "run_options", "tried", "usual_engine"]

USUAL = ("torch", "openvino", "llvm")
"""What is measured unless others are asked for."""


def engine_of(name: str, frozen: FrozenNetwork, *, precision: Any = "float32", calls: int = 1) -> Engine:
    """One of ENGINES.

    Raises:
        InputError: it cannot be made here; the message says why.
    """
    return make_engine(frozen, engine=name, precision=precision, calls=calls)


def usual_engine() -> str:
    """What a run takes here for a large raster. Small ones may get another, so that runs of several sizes are told."""
    return suitable("auto")[0]


def tried(make: Callable[[], Engine], side: int) -> dict[str, str]:
    """{"engine": what was made}, or {"missing": why it cannot be here}; ``side``: of a picture it is tried with."""
    try:
        engine = make()
        run_whole(engine, np.zeros((1, side, side, 3), np.uint8))
    except UrstTilesError as error:
        return {"missing": str(error)}
    return {"engine": engine.description}


def run_options(engine: str) -> dict[str, Any]:
    """What a run is told so that it takes this engine.

    Raises:
        InputError: a run of this version takes torch alone.
    """
    if "engine" in {field.name for field in dataclasses.fields(RunOptions)}:
        return {"engine": engine}
    if engine != "torch":
        raise InputError(f"a run cannot be told to take {engine}")
    return {}

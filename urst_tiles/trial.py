"""How fast a frozen network runs here: a short trial on small random pictures."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from urst_tiles.engines.base import Engine, run_whole
from urst_tiles.engines.choosing import EngineName, make_engine
from urst_tiles.engines.torch import Precision
from urst_tiles.networks.base import FrozenNetwork

__all__ = ["seconds_per_pixel"]

_SIDES = (128, 256, 512, 1024)
"""Sides tried in turn, in pixels."""
_ENOUGH = 0.03
"""Seconds: a picture that takes as long says enough, and a larger one is not tried. On a CPU that is one of 128 or 256
px; a GPU is idle most of the time with those. A plan is waited for: five encoders over 512 px take half a minute."""


def seconds_per_pixel(
    frozen: FrozenNetwork,
    *,
    window: int,
    device: str,
    precision: Precision,
    engine: EngineName = "torch",
    device_memory: int | None = None,
) -> float:
    """Seconds that one pixel of a window of ``window`` px takes, from pictures no larger than it."""
    tried = make_engine(frozen, engine=engine, device=device, precision=precision, device_memory=device_memory)
    smallest = max(frozen.minimum, frozen.stride)
    run_whole(tried, _picture(smallest))  # the first call sets up what later ones use
    found = 0.0
    for asked in _SIDES:
        side = max(smallest, min(asked, window) // frozen.stride * frozen.stride)
        seconds = min(_seconds_of(tried, _picture(side)) for _ in range(2))
        found = seconds / side**2
        if seconds >= _ENOUGH or asked >= window:
            break
    return found


def _picture(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def _seconds_of(engine: Engine, picture: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    run_whole(engine, picture)
    return time.perf_counter() - started

"""How fast a frozen network runs here: a short trial on small random pictures."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from urst_tiles.engines.base import Engine, run_whole
from urst_tiles.engines.choosing import EngineName, make_engine
from urst_tiles.engines.torch import Precision
from urst_tiles.networks.base import FrozenNetwork

__all__ = ["seconds_per_pixel"]

_SIDES = (256, 512, 1024)
"""Sides tried in turn, in pixels. In smaller pictures, edges and each layer's beginning count for too much."""
_ENOUGH = 0.02
"""Seconds: pictures that take as long say enough, and larger ones, which take memory and time, are not tried; on a CPU
those are the first. A GPU is idle most of the time with them. A plan is waited for: five encoders over 512 px may take
half a minute."""
_REPETITIONS = 5
_STEADY = 0.15
"""Seconds that a side's pictures may take together before no more are run than two: the first time, memory comes from
the system page by page."""


def seconds_per_pixel(
    frozen: FrozenNetwork,
    *,
    window: int,
    device: str,
    precision: Precision,
    engine: EngineName = "torch",
    device_memory: int | None = None,
    calls: int = 1,
) -> float:
    """Seconds that one pixel of a window of ``window`` px takes, from pictures no larger than it, of which so many are
    run at the same time."""
    tried = make_engine(
        frozen, engine=engine, device=device, precision=precision, device_memory=device_memory, calls=calls
    )
    smallest = max(frozen.minimum, frozen.stride)
    run_whole(tried, _picture(smallest))  # the first call sets up what later ones use
    found = 0.0
    for asked in _SIDES:
        side = max(smallest, min(asked, window) // frozen.stride * frozen.stride)
        seconds = _least_seconds(tried, _picture(side), calls)
        found = seconds / (calls * side**2)
        if seconds >= _ENOUGH or asked >= window:
            break
    return found


def _least_seconds(engine: Engine, picture: NDArray[np.uint8], calls: int) -> float:
    took: list[float] = []
    while len(took) < 2 or (len(took) < _REPETITIONS and sum(took) < _STEADY):
        took.append(_seconds_of(engine, picture, calls))
    return min(took)


def _picture(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def _seconds_of(engine: Engine, picture: NDArray[np.uint8], calls: int) -> float:
    with ThreadPoolExecutor(calls) as pool:
        started = time.perf_counter()
        made = [pool.submit(run_whole, engine, picture) for _ in range(calls)]
        for each in made:
            each.result()
        return time.perf_counter() - started

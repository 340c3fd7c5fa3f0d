"""The seam between a frozen network and what computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from urst_tiles.sources.base import Pixels

__all__ = ["ALL", "Crop", "Engine", "Piece", "run_whole", "shifted"]

Crop = tuple[slice, slice]
"""Rows and columns of a window."""

ALL: Crop = (slice(None), slice(None))
"""A crop that leaves a window as it is."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A window that is run, and where what is kept of the result goes. The engine cuts that out: nothing else is
    rounded, or comes back from a GPU.

    Attributes:
        window: (H, W, 3) uint8 or uint16; a view, of whatever layout.
        place: (3, rows, columns) of the same type, for what is kept; a view, each row of it in one piece.
        crop: rows and columns of the window that are kept.
        rim: pixels around the cell that the crop is of, on its narrowest side. Where it is the network's halo or more,
            what is kept is made of real pixels alone, whatever stands for those beyond the window's edges.
    """

    window: Pixels
    place: Pixels
    crop: Crop = ALL
    rim: int = 0


class Engine(Protocol):
    """Runs a frozen network on batches of windows. Threads may call at the same time; the engine puts them in order."""

    @property
    def description(self) -> str:
        """What was chosen, for the report: "torch 2.13, cpu, float32, 2 threads"."""
        ...

    @property
    def limit(self) -> int | None:
        """The most windows that are run at a time since more were too much for a GPU; None: they never were."""
        ...

    @property
    def device_peak(self) -> int | None:
        """The most bytes of a device's memory held so far, CUDA's own context left out; None: there is no device."""
        ...

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        """Put what the network makes of each window into its place, rounded to the nearest level.

        However many windows fit into memory at a time, all of them are run.

        Parameters:
            pieces: windows of one size and type.
            on_taken: called once, when no window is read any more.

        Raises:
            DeviceMemoryError: not even one window fits into the device's memory.
        """
        ...


def shifted(crop: Crop, height: int, width: int, trimmed: int) -> Crop:
    """The same rows and columns of a window's result that lacks so many pixels on each side."""
    top, bottom, _ = crop[0].indices(height)
    left, right, _ = crop[1].indices(width)
    return slice(top - trimmed, bottom - trimmed), slice(left - trimmed, right - trimmed)


def run_whole(engine: Engine, windows: Pixels) -> Pixels:
    """(N, H, W, 3) uint8 or uint16 → (N, 3, H, W) of the same type: all of each window's result.

    Raises:
        DeviceMemoryError: see :meth:`Engine.run`.
    """
    count, height, width, _ = windows.shape
    results = cast("Pixels", np.empty((count, 3, height, width), windows.dtype))
    engine.run([Piece(window, result) for window, result in zip(windows, results, strict=True)])
    return results

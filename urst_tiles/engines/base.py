"""The seam between a frozen network and what computes it."""

from __future__ import annotations

from typing import Protocol

from urst_tiles.sources.base import Pixels

__all__ = ["Engine"]


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

    def run(self, windows: Pixels) -> Pixels:
        """(N, H, W, 3) uint8 or uint16 → (N, 3, H, W) of the same dtype, rounded to the nearest level.

        However many windows fit into memory at a time, the result is of all of them.

        Raises:
            DeviceMemoryError: not even one window fits into the device's memory.
        """
        ...

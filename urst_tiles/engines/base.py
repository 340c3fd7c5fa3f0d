"""The seam between a frozen network and what computes it."""

from __future__ import annotations

from typing import Protocol

from urst_tiles.sources.base import Pixels

__all__ = ["Engine"]


class Engine(Protocol):
    """Runs a frozen network on batches of windows. One call at a time: the caller holds the lock."""

    @property
    def description(self) -> str:
        """What was chosen, for the report: "torch 2.13, cpu, float32, 2 threads"."""
        ...

    def run(self, windows: Pixels) -> Pixels:
        """(N, H, W, 3) uint8 or uint16 → (N, 3, H, W) of the same dtype, rounded to the nearest level."""
        ...

"""What a run tells its callbacks, and what it asks. Events are values; the library itself never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "Callback",
    "Event",
    "PhaseProgress",
    "PhaseStarted",
    "RunFinished",
    "RunStarted",
    "ShardFinished",
    "Stop",
    "TilesFinished",
]


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A part of the run begins: "wait" (for another part of it), "spool", "statistics", "pyramid" or "export"."""

    name: str


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """How far the pyramid (in shards) or the export (in tiles) has come."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The shards are about to be computed."""

    shards: int
    # all shards to do: those of the run, or of this part of it
    shards_done: int
    # of these, done by an earlier run
    pixels: int
    # to produce, in all
    pixels_done: int
    # of these, done by an earlier run


@dataclass(frozen=True, slots=True)
class TilesFinished:
    """Some windows of a shard went through the network."""

    shard: int
    pixels: int
    # kept pixels among them


@dataclass(frozen=True, slots=True)
class ShardFinished:
    """A shard is on disk and in the ledger."""

    shard: int
    pixels: int
    seconds_read: float
    seconds_run: float
    seconds_written: float
    empty: bool = False
    # it is 0 everywhere, and nothing was written


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The result stands under the target's name."""

    shards: int
    # computed by this run
    pixels: int
    # produced by this run
    seconds: float


Event = PhaseStarted | PhaseProgress | RunStarted | TilesFinished | ShardFinished | RunFinished
Callback = Callable[[Event], None]

Stop = Callable[[], bool]
"""Asked between shards and tiles; once it says True the run stops at the next place to go on from. ``Event.is_set`` of
``threading`` is one."""

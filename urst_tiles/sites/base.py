"""The seam between a run and the place where its target and its state lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from urst_tiles.events import Callback, Stop
from urst_tiles.ledger import Ledger
from urst_tiles.runs import RunRecord
from urst_tiles.sources.base import Source
from urst_tiles.statistics import Statistics
from urst_tiles.stores import OmeZarrStore, StoreLayout

__all__ = ["NOTES_GROUP", "Site"]

NOTES_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n'
"""The run's notes are a group of their own, so that Zarr knows what stands beside the arrays."""


class Site(Protocol):
    """A run's target and its state, as one process sees them that does the whole run or a part of it.

    In the order of a run: ``check``; behind the gate ``prepare``, then ``create`` or what stands there is taken up,
    ``join``; ``ledger``; ``is_last``; ``export_to``, ``finish``; ``leave`` in any case. What cannot be read or written
    raises StoreError.
    """

    @property
    def target(self) -> Path | str:
        """The path or URL."""
        ...

    def check(self) -> None:
        """Whether the target could be written at all, before anything is read.

        Raises:
            StoreError, InputError: it could not.
        """
        ...

    def check_unpacking(self, source: Source) -> None:
        """Whether there is a place to unpack a raster in.

        Raises:
            InputError: there is none.
        """
        ...

    def gate(self, stop: Stop, tell: Callback) -> AbstractContextManager[None]:
        """One process at a time, where the place can see to that.

        Raises:
            RunStopped: it was asked for while this process waited.
        """
        ...

    def prepare(self, record: RunRecord, *, overwrite: bool) -> bool:
        """See what stands there and remove what is to be begun afresh. True: there is a run to go on with.

        Raises:
            StoreError: the target exists, something else stands there, or another process is at it.
            RunMismatchError: an unfinished run with other settings stands there.
        """
        ...

    def unpacking(self, stop: Stop, tell: Callback) -> AbstractContextManager[Path]:
        """Gives the folder to unpack a raster to, to one process at a time."""
        ...

    def create(self, layout: StoreLayout, record: RunRecord, statistics: Statistics) -> bool:
        """Make the empty store with all that makes it a run, so that one killed here is begun again. False: another
        process was first, and its run stands there now."""
        ...

    def abandon(self) -> None:
        """Remove what a run left that did not come to be."""
        ...

    def join(self, store: OmeZarrStore, *, resumed: bool) -> None:
        """Begin to work at the run that stands there."""
        ...

    def record(self) -> RunRecord | None:
        """The run's; None where none stands."""
        ...

    def save_record(self, record: RunRecord) -> None: ...

    def statistics(self) -> Statistics:
        """The run's own, measured by whoever began it."""
        ...

    def store(self) -> OmeZarrStore: ...

    def ledger(self) -> Ledger: ...

    def is_last(self, done: Callable[[], bool], tell: Callback) -> bool:
        """Whether this process is to finish the run; asked when its own shards are done. ``done`` says whether
        everybody's are."""
        ...

    def export_to(self, kind: str) -> Path | None:
        """Where the result is still to be exported to, noted as begun; None where the store itself is the result, or
        where the export stands there."""
        ...

    def finish(self, kind: str, tell: Callback, *, keep_store: bool) -> None:
        """Give the result the target's name."""
        ...

    def leave(self) -> None:
        """No longer be at work."""
        ...

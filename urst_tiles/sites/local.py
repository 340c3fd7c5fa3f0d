"""A run in a folder: it becomes visible by a rename, and file locks say who works at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from urst_tiles.events import Callback, Stop
from urst_tiles.folders import RunFolder, check_writable
from urst_tiles.ledger import FileLog, Ledger
from urst_tiles.options import Part
from urst_tiles.runs import RunRecord, read_run, write_atomically
from urst_tiles.sharing import Seat, gate
from urst_tiles.sites.base import NOTES_GROUP
from urst_tiles.sources.base import Source
from urst_tiles.statistics import Statistics
from urst_tiles.stores import OmeZarrStore, StoreLayout

__all__ = ["LocalSite"]


class LocalSite:
    """See :class:`urst_tiles.sites.base.Site`. Parts share a file system with file locks."""

    def __init__(self, target: Path, part: Part | None, scratch: Path | None) -> None:
        self._folder = RunFolder(target, scratch)
        self._seat = Seat(self._folder, part)
        self._scratch, self._whole = scratch, part is None

    @property
    def target(self) -> Path:
        return self._folder.target

    def check(self) -> None:
        self._folder.check_target()
        if self._scratch is not None:
            check_writable(self._scratch, "cannot unpack there")

    def check_unpacking(self, source: Source) -> None:
        """Beside the target there is a place."""

    def gate(self, stop: Stop, tell: Callback) -> AbstractContextManager[None]:
        return gate(self._folder.gate, self._folder.store, stop, tell)

    def prepare(self, record: RunRecord, *, overwrite: bool) -> bool:
        self._folder.discard_new()
        state = self._folder.state(record, overwrite=overwrite)
        if state == "resume" or overwrite:
            self._seat.check()
        if state == "new":
            self._folder.clear()
        return state == "resume"

    @contextmanager
    def unpacking(self, stop: Stop, tell: Callback) -> Iterator[Path]:  # noqa: ARG002
        """The gate is held already."""
        self._folder.spool.mkdir(exist_ok=True)
        yield self._folder.spool

    def create(self, layout: StoreLayout, record: RunRecord, statistics: Statistics) -> bool:
        """Under another name, which is replaced when everything is in it."""
        new = RunFolder.notes_in(self._folder.new)
        OmeZarrStore.create(self._folder.new, layout)
        write_atomically(new / "zarr.json", NOTES_GROUP)
        statistics.save(new / self._folder.statistics.name)
        self._folder.save_record(record, self._folder.new)
        self._folder.reveal()
        return True

    def abandon(self) -> None:
        self._folder.clear()

    def join(self, store: OmeZarrStore, *, resumed: bool) -> None:
        if resumed and self._seat.alone():
            store.clean_partials()
        self._seat.take()

    def record(self) -> RunRecord | None:
        return read_run(self._folder.store)

    def save_record(self, record: RunRecord) -> None:
        self._folder.save_record(record, self._folder.store)

    def statistics(self) -> Statistics:
        return Statistics.load(self._folder.statistics)

    def store(self) -> OmeZarrStore:
        return OmeZarrStore.open(self._folder.store)

    def ledger(self) -> Ledger:
        return Ledger(FileLog(self._seat.ledger))

    def is_last(self, done: Callable[[], bool], tell: Callback) -> bool:
        """If it is, nobody else can begin to be."""
        if self._whole:
            return True
        with self.gate(lambda: False, tell):
            if not (done() and self._seat.alone()):
                # With the gate held: who comes next finds this seat empty.
                self._seat.leave()
                return False
            self._seat.finish()
            return True

    def export_to(self, kind: str) -> Path | None:
        if kind == "omezarr" or self._folder.exported():
            return None
        self._folder.mark_export()
        return self._folder.target

    def finish(self, kind: str, tell: Callback, *, keep_store: bool) -> None:
        with self.gate(lambda: False, tell):
            self._seat.leave()
            if kind == "omezarr":
                self._folder.finish_omezarr()
            else:
                self._folder.finish_export(keep_store=keep_store)
            self._folder.clear_spool()

    def leave(self) -> None:
        self._seat.leave()

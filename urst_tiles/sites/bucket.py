"""A run in an object store, or wherever else fsspec reaches: no rename, no append, no locks, only puts that are whole.

Everything is written below the target's own URL::

    urst/zarr.json                     a constant; put first, to see whether one may write there
    urst/statistics-<hash>.safetensors under a name made of its bytes
    urst/run.json                      created only where there is none: from here on there is a run. Names the
                                       statistics, and holds the metadata of the arrays and of the group
    0/zarr.json, 1/zarr.json, ...      the arrays' metadata, as run.json has it
    urst/group.json                    the group's, for as long as the run lasts
    <level>/c/0/<row>/<col>            shards
    urst/ledger/<level>/<index>        a record a shard, put after it
    zarr.json                          the group's metadata, put last by one put: the result is whole

Until the last one stands there, a reader finds no group. Before ``urst/run.json`` nothing is written whose name two
creators could share with different bytes, and after it everything follows from it: whoever comes writes the same bytes
under the same names. So nobody needs a lock: of several that begin a run at once one creates it and the others go on
with it, with the statistics of the one; several parts share the ledger; two processes that make the same shard, the
pyramid or the last put do each other no harm; and a straggler that still writes when the result is whole writes what
stands there. Ledger and group.json stay: nothing is removed from a result that somebody may still look at.

Not excluded: a process at work while another one overwrites the target. And where fsspec cannot create exclusively
(S3, Google's storage and memory:// can), two processes that begin a run within the same moment may both think it
theirs; let one part begin before the others there.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from urst_tiles.errors import InputError, StoreError
from urst_tiles.events import Callback, Stop
from urst_tiles.folders import check_writable, scratch_folder
from urst_tiles.ledger import Ledger, ObjectLog
from urst_tiles.objects import Objects
from urst_tiles.options import Part
from urst_tiles.runs import RECORD, RunRecord, record_among, refuse_other_settings, sha256
from urst_tiles.sharing import gate
from urst_tiles.sites.base import NOTES_GROUP
from urst_tiles.sources.base import Source
from urst_tiles.statistics import Statistics
from urst_tiles.stores import OmeZarrStore, StoreLayout
from urst_tiles.stores.files import storage_errors
from urst_tiles.stores.omezarr import store_documents
from urst_tiles.stores.places import ROOT, UNFINISHED_ROOT

__all__ = ["BucketSite"]

_NOTES = "urst"
_NOTES_GROUP = f"{_NOTES}/zarr.json"
_LEDGER = f"{_NOTES}/ledger"
_LITTER = re.compile(r"zarr\.json|statistics-[0-9a-f]+\.safetensors")
"""In the notes: all that a creation writes before there is a run."""


class BucketSite:
    """See :class:`urst_tiles.sites.base.Site`, and above what stands where."""

    def __init__(self, url: str, part: Part | None, scratch: Path | None) -> None:
        self._objects = Objects(url)
        self._whole = part is None
        self._scratch = scratch
        self._spool = None if scratch is None else scratch_folder(scratch, self._objects.url)

    @property
    def target(self) -> str:
        return self._objects.url

    def check_unpacking(self, source: Source) -> None:
        if self._scratch is None:
            raise InputError(
                f"{source.name} has to be unpacked before a run ({source.info.format} cannot be read at random), and "
                f"{self.target} is no folder to unpack it beside: name one with scratch (--scratch FOLDER)"
            )

    def check(self) -> None:
        if self._scratch is not None:
            check_writable(self._scratch, "cannot unpack there")
        with self._errors("look into"):
            self._objects.check_below_root()

    def gate(self, stop: Stop, tell: Callback) -> AbstractContextManager[None]:  # noqa: ARG002
        """An object store has none, and needs none."""
        return contextlib.nullcontext()

    def prepare(self, record: RunRecord, *, overwrite: bool) -> bool:
        with self._errors("look into"):
            if overwrite:
                self._clear()
            there = None if self._objects.has(ROOT) else self.record()
            if there is not None:
                refuse_other_settings(self.target, there, record)
                return True
            if self._taken():
                raise StoreError(
                    f"{self.target} exists; choose another name or use overwrite (--overwrite) to replace it"
                )
        with self._errors("write"):
            self._objects.put(_NOTES_GROUP, [NOTES_GROUP])
        return False

    @contextlib.contextmanager
    def unpacking(self, stop: Stop, tell: Callback) -> Iterator[Path]:
        if self._spool is None:
            raise InputError(f"{self.target} is no folder to unpack a raster beside: use scratch (--scratch FOLDER)")
        # Parts on this machine share the copy.
        with gate(self._spool.with_suffix(".lock"), self._spool, stop, tell):
            self._spool.mkdir(exist_ok=True)
            yield self._spool

    def create(self, layout: StoreLayout, record: RunRecord, statistics: Statistics) -> bool:
        data = statistics.to_bytes()
        name = f"{_NOTES}/statistics-{sha256(data)[:16]}.safetensors"
        documents = {key: text.decode() for key, text in store_documents(layout).items()}
        with self._errors("create"):
            self._objects.put(name, [data])
            return self._objects.create(RECORD, record.to_bytes(statistics=name, store=documents))

    def abandon(self) -> None:
        """Nothing of a run that did not come to be is taken for one, and others may be about to begin it: what is
        removed here is only what the next one puts again."""
        self._clear_spool()
        with contextlib.suppress(OSError):
            if not self._objects.has(RECORD):
                self._objects.remove(_NOTES_GROUP)

    def join(self, store: OmeZarrStore, *, resumed: bool) -> None:
        """Nobody knows who is at work here."""

    def record(self) -> RunRecord | None:
        with self._errors("look into"):
            return record_among(self._objects)

    def save_record(self, record: RunRecord) -> None:
        document = self._document()
        with self._errors("write"):
            more = {name: document[name] for name in ("statistics", "store")}
            self._objects.put(RECORD, [record.to_bytes(**more)])

    def statistics(self) -> Statistics:
        name = str(self._document()["statistics"])
        with self._errors("read"):
            data = self._objects.get(name)
        if data is None:
            raise StoreError(
                f"the statistics of the run at {self.target} are gone ({name}); "
                "use overwrite (--overwrite) to start afresh"
            )
        return Statistics.from_bytes(data, f"{self.target}/{name}")

    def store(self) -> OmeZarrStore:
        """Its metadata is written by everybody who comes before it is there."""
        with self._errors("write"):
            if not self._objects.has(UNFINISHED_ROOT):
                documents = {key: str(text).encode() for key, text in self._document()["store"].items()}
                for key, data in sorted(documents.items()):
                    if key != ROOT:
                        self._objects.put(key, [data])
                self._objects.put(_NOTES_GROUP, [NOTES_GROUP])
                self._objects.put(UNFINISHED_ROOT, [documents[ROOT]])
        return OmeZarrStore.open(self.target)

    def ledger(self) -> Ledger:
        return Ledger(ObjectLog(self._objects, _LEDGER))

    def is_last(self, done: Callable[[], bool], tell: Callback) -> bool:  # noqa: ARG002
        """Several may be: they do the same."""
        return self._whole or done()

    def export_to(self, kind: str) -> Path | None:  # noqa: ARG002
        return None

    def finish(self, kind: str, tell: Callback, *, keep_store: bool) -> None:  # noqa: ARG002
        with self._errors("finish"):
            root = self._objects.get(UNFINISHED_ROOT)
            if root is None:
                raise StoreError(f"{self.target} is gone: another process removed this run")
            self._sweep()
            self._objects.put(ROOT, [root])
        self._clear_spool()

    def leave(self) -> None:
        """Nothing to do."""

    def _clear(self) -> None:
        """Remove all that stands there: first what makes it a result, then what makes it a run, so that a removal that
        is killed leaves neither half a result nor half a run that could be gone on with."""
        self._objects.remove(ROOT, RECORD)
        self._objects.remove_all()

    def _taken(self) -> bool:
        """Whether anything stands there but what a creation may leave that was killed."""
        if [name for name in self._objects.names() if name != _NOTES]:
            return True
        return not all(_LITTER.fullmatch(name) for name in self._objects.names(_NOTES))

    def _sweep(self) -> None:
        """Remove the statistics of those who were not the first. Only at the end: nobody begins this run again."""
        named = str(self._document()["statistics"])
        found = (f"{_NOTES}/{name}" for name in self._objects.names(_NOTES) if name.startswith("statistics-"))
        self._objects.remove(*(key for key in found if key != named))

    def _document(self) -> dict[str, Any]:
        """run.json with what only this kind of site has in it.

        Raises:
            StoreError: it is gone or not one.
        """
        with self._errors("read"):
            try:
                document = json.loads(self._objects.get(RECORD) or b"")
                if {"statistics", "store"} <= document.keys():
                    return dict(document)
            except (ValueError, AttributeError):
                pass
        raise StoreError(f"{self.target} holds no run of this program; remove it or choose another target")

    def _clear_spool(self) -> None:
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return storage_errors(f"cannot {what} {self.target}")

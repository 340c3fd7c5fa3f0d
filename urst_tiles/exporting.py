"""``export``: a finished store to another format."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from urst_tiles.allocator import return_freed_memory
from urst_tiles.errors import InputError, RunStopped
from urst_tiles.events import Callback, PhaseProgress, PhaseStarted, Stop
from urst_tiles.ledger import FileLog, Log, ObjectLog
from urst_tiles.objects import Objects, is_url, without_file_scheme
from urst_tiles.stores import OmeZarrStore, Store, check_options, exporter_for
from urst_tiles.stores.exporter import ExportKeywords, ExportOptions
from urst_tiles.stores.metadata import shard_grid
from urst_tiles.stores.sparse import SparseStore

__all__ = ["ExportReport", "export", "open_finished"]

_LEDGER = "urst/ledger"
"""Where a run's ledger stays in its result."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote."""

    target: Path
    kind: str
    # the format's name
    width: int
    # of the full size, in pixels
    height: int
    memory_estimate: int
    # upper bound of what the export took beyond the process, in bytes
    seconds: float
    notes: tuple[str, ...]
    # what was changed or lost, one sentence each

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"target": str(self.target), "notes": list(self.notes)}


def export(
    store: Store | str | Path,
    out: str | Path,
    *,
    kind: str | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    stop: Stop = lambda: False,
    **options: Unpack[ExportKeywords],
) -> ExportReport:
    """Write a finished store of this program to another format.

    The same store and options give the same bytes. The target's name appears when all is written. An OME-Zarr and Deep
    Zoom go on where an export that was stopped or killed ended, the other formats begin again.

    Parameters:
        store: a finished result, an OME-Zarr that this program wrote: a path, a URL, or the store itself.
        out: a local path; its suffix says the format, unless ``kind`` does.
        kind: a name in :data:`EXPORTERS`: "omezarr", "bigtiff", "ome-tiff", "cog", "deepzoom", "png", "jpeg", "webp".
        overwrite: replace what stands there.
        callbacks: told of the phase "export" and its progress.
        stop: asked between tiles and rows.
        options: see :class:`~urst_tiles.stores.exporter.ExportOptions`.

    Raises:
        InputError: the format cannot hold such a picture, or an option does not fit it; nothing is written.
        StoreError: the store is not a finished one of this program, the target is there, or writing fails.
        RunStopped: ``stop`` said so.
    """
    started, wanted, target = time.perf_counter(), ExportOptions(**options), _local(out)
    exporter = exporter_for(target, kind)
    check_options(exporter, wanted)
    opened = open_finished(store) if isinstance(store, str | Path) else store
    layout = opened.layout
    notes = exporter.check(layout, wanted)
    exporter.check_target(target, overwrite=overwrite)
    return_freed_memory()

    def on_progress(done: int, total: int) -> None:
        for callback in callbacks:
            callback(PhaseProgress("export", done, total))
        if stop():
            rest = "the same command goes on" if exporter.resumes else f"{exporter.title} is begun again"
            raise RunStopped(f"stopped as asked when {done} of {total} parts were written; {rest}")

    for callback in callbacks:
        callback(PhaseStarted("export"))
    exporter.write(opened, target, wanted, overwrite=overwrite, on_progress=on_progress)
    return ExportReport(
        target=target,
        kind=exporter.name,
        width=layout.width,
        height=layout.height,
        memory_estimate=exporter.memory_bytes(layout, wanted),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def open_finished(path: str | Path) -> Store:
    """A result of this program, to read from: what its run left out because it is 0 everywhere counts as there.

    Raises:
        StoreError: there is nothing, or something else.
    """
    store = OmeZarrStore.open(path)
    return SparseStore(store, _Empty(store))


class _Empty:
    """Told (level, row, col), whether a run left that shard out; its ledger is read when that is first asked."""

    def __init__(self, store: OmeZarrStore) -> None:
        self._store = store
        self._known: set[tuple[int, int]] | None = None

    def __call__(self, level: int, row: int, col: int) -> bool:
        if self._known is None:
            self._known = {(record.level, record.index) for record in _log(self._store.name).records() if record.empty}
        columns = shard_grid(self._store.layout, level)[1]
        return (level, row * columns + col) in self._known


def _log(store: str) -> Log:
    if is_url(store):
        return ObjectLog(Objects(store), _LEDGER)
    return FileLog(Path(store) / _LEDGER / "main.log")


def _local(out: str | Path) -> Path:
    if is_url(out):
        raise InputError(f"{out} is no local path, and exports are written to one. Copy the result there afterwards")
    return Path(without_file_scheme(str(out)))

"""A run in a folder: where its files stand beside its target, and what happens to them when it ends.

While a run is under way everything it writes stands in ``<target>.partial.zarr``; the target's own name appears only
when the result is whole, by a rename. Beside the arrays that folder holds ``urst/``: ``run.json``,
``statistics.safetensors``, ``ledger/`` and, while processes work at the run, ``locks/``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

from urst_tiles.errors import StoreError
from urst_tiles.runs import RECORD, RunRecord, read_run, refuse_other_settings, sha256, write_atomically

__all__ = ["RunFolder", "check_writable", "scratch_folder"]

_REPLACED = ".replaced"
"""Added to the name of a result while the new one takes its place."""


class RunFolder:
    """The places of a run that writes ``target``; a raster is unpacked beside it, or in the folder ``scratch``."""

    def __init__(self, target: Path, scratch: Path | None = None) -> None:
        self.target = target
        self.store = target.with_name(target.name + ".partial.zarr")
        self.notes = self.notes_in(self.store)
        beside = target.with_name(target.name + ".partial.spool")
        self.spool = beside if scratch is None else scratch_folder(scratch, target.absolute())
        # stands only while a process creates, joins or leaves the run
        self.gate = target.with_name(target.name + ".partial.lock")
        # what becomes the store when all that makes it a run is in it
        self.new = target.with_name(target.name + ".partial.new.zarr")

    @staticmethod
    def notes_in(store: Path) -> Path:
        """What stands beside the arrays."""
        return store / "urst"

    @property
    def ledgers(self) -> Path:
        return self.notes / "ledger"

    @property
    def locks(self) -> Path:
        return self.notes / "locks"

    @property
    def statistics(self) -> Path:
        return self.notes / "statistics.safetensors"

    def check_target(self) -> None:
        """Whether the target could be written at all, before anything is read.

        Raises:
            StoreError: its folder is missing or cannot be written.
        """
        check_writable(self.target.parent, f"cannot write {self.target}")

    def state(self, record: RunRecord, *, overwrite: bool) -> Literal["new", "resume"]:
        """What to do about what stands there. Removes nothing and creates nothing.

        Raises:
            StoreError: the target exists.
            RunMismatchError: an unfinished run with other settings stands there.
        """
        if overwrite:
            return "new"
        if self.target.exists() and not self.exported():
            raise StoreError(f"{self.target} exists; choose another name or use overwrite (--overwrite) to replace it")
        if not self.store.exists():
            return "new"
        there = read_run(self.store)
        if there is None:
            raise StoreError(
                f"{self.store} exists but holds no run of this program; remove it or choose another target"
            )
        refuse_other_settings(self.store, there, record)
        return "resume"

    def clear(self) -> None:
        """Remove an unfinished run. The target itself stays until it is replaced by the new result."""
        for leftover in (self.store, self.new, self.target.with_name(self.target.name + _REPLACED)):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        self.clear_spool()

    def clear_spool(self) -> None:
        if self.spool.exists():
            shutil.rmtree(self.spool)

    def save_record(self, record: RunRecord, store: Path) -> None:
        """
        Raises:
            StoreError: it cannot be written.
        """
        write_atomically(store / RECORD, record.to_bytes())

    def discard_new(self) -> None:
        """Remove what a creation or an ending that was killed left. Only with the gate held."""
        shutil.rmtree(self.new, ignore_errors=True)

    def mark_export(self) -> None:
        """Note that everything is done but the export, and what stands under the target's name before it."""
        write_atomically(self.notes / "export.json", (json.dumps(_identity(self.target)) + "\n").encode())

    def exported(self) -> bool:
        """Whether the target is this run's own export, and only the store is to be put away."""
        try:
            before = json.loads((self.notes / "export.json").read_text())
        except (OSError, ValueError):
            return False
        return self.target.exists() and before != _identity(self.target)

    def reveal(self) -> None:
        """Give a store that was created as ``new`` its name: from now on there is a run to go on with.

        Raises:
            StoreError: it cannot be renamed.
        """
        _replace(self.new, self.store)

    def finish_omezarr(self) -> None:
        """Give the finished store the target's name."""
        self._forget_seats()
        _replace(self.store, self.target)

    def finish_export(self, *, keep_store: bool) -> None:
        """The target is exported: remove the store it was made from, or keep it as ``<target>.zarr``."""
        self._forget_seats()
        if keep_store:
            _replace(self.store, self.target.with_name(self.target.name + ".zarr"))
        else:
            # Under a name that is nobody's run: half of it removed would not be one to go on with.
            _replace(self.store, self.new)
            shutil.rmtree(self.new)

    def _forget_seats(self) -> None:
        shutil.rmtree(self.locks, ignore_errors=True)


def scratch_folder(scratch: Path, target: object) -> Path:
    """A name in ``scratch`` for the unpacked raster of the run that writes ``target``: no other run's."""
    name = str(target).rpartition("/")[2]
    return scratch / f"{name}-{sha256(str(target).encode())[:12]}.partial.spool"


def check_writable(folder: Path, what: str) -> None:
    """Whether files can be made in a folder; ``what`` reads "cannot write x.zarr".

    Raises:
        StoreError: it is missing or cannot be written.
    """
    if not folder.is_dir():
        raise StoreError(f"{what}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{what}: the folder {folder} is not writable")


def _replace(source: Path, target: Path) -> None:
    """Rename, replacing a folder or file that stands there."""
    try:
        old = target.with_name(target.name + _REPLACED)
        if target.exists():
            target.rename(old)
            source.rename(target)
        else:
            source.rename(target)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot rename {source} to {target}: {error.strerror or error}") from error


def _identity(path: Path) -> list[int] | None:
    """Tells a file from another one under its name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_ino, found.st_mtime_ns, found.st_size]

"""A run on disk: what it is (run.json), whether another one may go on with it, and where its files stand.

While a run is under way everything it writes stands in ``<target>.partial.zarr``; the target's own name appears only
when the result is whole, by a rename. Beside the arrays that folder holds ``urst/``: ``run.json``,
``statistics.safetensors``, ``ledger/`` and, while processes work at the run, ``locks/``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from urst_tiles.errors import RunMismatchError, StoreError
from urst_tiles.sources.base import Source

__all__ = ["RunFolder", "RunRecord", "read_run", "save_record", "sha256", "write_atomically"]


_REPLACED = ".replaced"
"""Added to the name of a result while the new one takes its place."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What decides a run's pixels. Two runs with equal settings write the same bytes."""

    settings: dict[str, Any]
    # compared: raster, network, geometry, precision
    source: dict[str, Any]
    # the source's fingerprint: when it differs, the pixels already used are read again and compared
    versions: dict[str, str]
    # for people; never compared

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, "settings": self.settings, "source": self.source, "versions": self.versions}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> RunRecord:
        return RunRecord(document["settings"], document["source"], document.get("versions", {}))

    def differences(self, wanted: RunRecord) -> list[str]:
        """One "name: there → asked" a setting that differs."""
        there, asked = dict(_flatten(self.settings)), dict(_flatten(wanted.settings))
        return [
            f"{name}: {there.get(name, 'absent')} → {asked.get(name, 'absent')}"
            for name in sorted(there.keys() | asked.keys())
            if there.get(name) != asked.get(name)
        ]


class RunFolder:
    """The places of a run that writes ``target``."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.store = target.with_name(target.name + ".partial.zarr")
        # "notes" beside the arrays
        self.notes = self.store / "urst"
        self.spool = target.with_name(target.name + ".partial.spool")
        # stands only while a process creates, joins or leaves the run
        self.gate = target.with_name(target.name + ".partial.lock")
        # what becomes the store when all that makes it a run is in it
        self.new = target.with_name(target.name + ".partial.new.zarr")

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
        folder = self.target.parent
        if not folder.is_dir():
            raise StoreError(f"cannot write {self.target}: there is no folder {folder}; create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write {self.target}: the folder {folder} is not writable")

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
        differences = there.differences(record)
        if differences:
            raise RunMismatchError(
                f"{self.store} holds an unfinished run with other settings ({'; '.join(differences)}). "
                "Use the same settings to go on with it, or overwrite (--overwrite) to start afresh"
            )
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

    def save_record(self, record: RunRecord) -> None:
        save_record(self.store, record)

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


def save_record(store: Path, record: RunRecord) -> None:
    """Write the record of a run into its store.

    Raises:
        StoreError: it cannot be written.
    """
    write_atomically(store / "urst" / "run.json", (json.dumps(record.to_json(), indent=2) + "\n").encode())


def read_run(store: Path) -> RunRecord | None:
    """The record of a store written by this program, finished or not; None for anything else."""
    try:
        return RunRecord.from_json(json.loads((store / "urst" / "run.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_atomically(path: Path, data: bytes) -> None:
    """All of it or nothing, forced to disk.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def raster_settings(source: Source) -> dict[str, Any]:
    """What of a raster decides a run's pixels."""
    info = source.info
    return {
        "width": info.width,
        "height": info.height,
        "bands": info.bands,
        "dtype": info.dtype,
        "alpha": info.alpha,
        "orientation": info.orientation,
        "icc_profile": sha256(info.icc_profile) if info.icc_profile else None,
    }


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


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

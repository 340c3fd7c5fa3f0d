"""A run's record, run.json: what it is, and whether another one may go on with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urst_tiles.errors import InputError, RunMismatchError, StoreError
from urst_tiles.geometry import SHARD_CORES
from urst_tiles.objects import Objects, is_url, without_file_scheme
from urst_tiles.sources.base import Source
from urst_tiles.sources.masked import Masked

__all__ = [
    "RECORD",
    "Begun",
    "RunRecord",
    "raster_settings",
    "read_run",
    "record_among",
    "refuse_other_settings",
    "run_record",
    "sha256",
    "write_atomically",
]


_MOST = 1 << 20
"""Pixels across a window in a record that is believed."""

RECORD = "urst/run.json"
"""Where the record stands in a store."""


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

    def to_bytes(self, **more: object) -> bytes:
        """run.json, with ``more`` beside what is the record's own."""
        return (json.dumps(self.to_json() | more, indent=2) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes) -> RunRecord | None:
        """What :meth:`to_bytes` gave; None for anything else."""
        try:
            document = json.loads(data)
            parts = document["settings"], document["source"], document.get("versions", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return RunRecord(*parts) if all(isinstance(part, dict) for part in parts) else None

    def differences(self, wanted: RunRecord) -> list[str]:
        """One "name: there → asked" a setting that differs."""
        there, asked = dict(_flatten(self.settings)), dict(_flatten(wanted.settings))
        return [
            f"{name}: {there.get(name, 'absent')} → {asked.get(name, 'absent')}"
            for name in sorted(there.keys() | asked.keys())
            if there.get(name) != asked.get(name)
        ]


@dataclass(frozen=True, slots=True)
class Begun:
    """What an unfinished run chose where its options left it open. Whoever goes on with it chooses the same: memory and
    libraries, by which these are chosen, may be others by then, and the pixels must not be."""

    window: int
    halo: int
    stride: int
    # all in pixels
    cores: int
    # across a shard
    engine: str

    @staticmethod
    def of(record: RunRecord | None) -> Begun | None:
        """None where there is no run, or a record that says nothing of the kind."""
        if record is None:
            return None
        try:
            geometry, engine = record.settings["geometry"], record.settings["engine"]
            window, halo, stride, cores = (geometry[name] for name in ("window", "halo", "stride", "cores"))
        except (KeyError, TypeError):
            return None
        numbers = all(type(number) is int and 0 <= number <= _MOST for number in (window, halo, stride, cores))
        known = numbers and 0 < cores <= SHARD_CORES and window > 2 * halo and isinstance(engine, str)
        return Begun(window, halo, stride, cores, engine) if known else None


def refuse_other_settings(name: object, there: RunRecord, wanted: RunRecord) -> None:
    """
    Raises:
        RunMismatchError: an unfinished run, at ``name``, has other settings; it says which.
    """
    differences = there.differences(wanted)
    if differences:
        raise RunMismatchError(
            f"{name} holds an unfinished run with other settings ({'; '.join(differences)}). "
            "Use the same settings to go on with it, or overwrite (--overwrite) to start afresh"
        )


def read_run(store: Path) -> RunRecord | None:
    """The record of a store in a folder that this program wrote, finished or not; None for anything else."""
    try:
        return RunRecord.from_bytes((store / RECORD).read_bytes())
    except OSError:
        return None


def record_among(objects: Objects) -> RunRecord | None:
    """The same, of what lies below a URL.

    Raises:
        OSError: it cannot be looked into.
    """
    data = objects.get(RECORD)
    return None if data is None else RunRecord.from_bytes(data)


def run_record(target: str | Path) -> RunRecord | None:
    """The record of a result or an unfinished store of this program, in a folder or below a URL; None for anything
    else."""
    if not is_url(target):
        return read_run(Path(without_file_scheme(str(target))))
    with contextlib.suppress(OSError, InputError):
        return record_among(Objects(str(target)))
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
        **({"choice": list(info.choice)} if info.choice else {}),
        **({"mask": True} if isinstance(source, Masked) else {}),
    }


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

"""The ledger: which shards are done, on disk, crash-safe.

A record of 28 bytes a shard is written, and forced to disk, only after the shard it speaks of is on disk. It carries
its own checksum, so one torn by a crash is told apart from a whole one and simply does not count: its shard is computed
again. In a folder each process that works at the run appends to a file of its own; in an object store, which knows no
appending, each record is an object. What any of them holds is done. Nothing here is proportional to pixels; a shard
costs one record on disk and one byte in memory.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from urst_tiles.errors import StoreError
from urst_tiles.objects import Objects

__all__ = ["FileLog", "Ledger", "Log", "ObjectLog", "Record"]

_BODY = struct.Struct("<4sIQII")
_SIZE = _BODY.size + 4
_MAGIC = b"UTL1"
_MAGIC_EMPTY = b"UTL0"

_UNDONE, _DONE, _EMPTY = 0, 1, 2
"""What the ledger has in memory for a shard."""

Known = Callable[[int, int], bool]
"""Told (level, index), whether that shard is known to be done."""


@dataclass(frozen=True, slots=True)
class Record:
    """One shard that is done: on disk, or empty."""

    level: int
    # pyramid level, 0 is full size
    index: int
    # the shard's place in its level, row-major
    source_crc: int = 0
    # CRC-32 of the pixels that were read for it; 0 where none were
    target_crc: int = 0
    # CRC-32 of the pixels that were written
    empty: bool = False
    # it is 0 everywhere, and nothing was written

    def pack(self) -> bytes:
        magic = _MAGIC_EMPTY if self.empty else _MAGIC
        body = _BODY.pack(magic, self.level, self.index, self.source_crc, self.target_crc)
        return body + struct.pack("<I", zlib.crc32(body))

    @staticmethod
    def unpack(data: bytes) -> Record | None:
        """None for a record that is torn or not a record."""
        if len(data) != _SIZE or data[:4] not in (_MAGIC, _MAGIC_EMPTY):
            return None
        if struct.unpack("<I", data[_BODY.size :])[0] != zlib.crc32(data[: _BODY.size]):
            return None
        magic, level, index, source_crc, target_crc = _BODY.unpack(data[: _BODY.size])
        return Record(level, index, source_crc, target_crc, empty=magic == _MAGIC_EMPTY)


class Log(Protocol):
    """Where records stand. What cannot be read or written raises OSError."""

    @property
    def name(self) -> str:
        """A path or URL, for messages."""
        ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def records(self) -> Iterator[Record]:
        """Every whole record, of all processes."""
        ...

    def news(self, known: Known) -> Iterator[Record]:
        """Those that may not be known yet."""
        ...

    def add(self, record: Record) -> None:
        """Once this returns, the record stays."""
        ...


class Ledger:
    """A log and what it says; used as a context manager."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._done: dict[int, bytearray] = {}
        # level → one byte a shard, grown as needed
        self._gone: set[tuple[int, int]] = set()
        # forgotten: whatever the log says
        try:
            log.open()
            self.refresh()
        except OSError as error:
            raise StoreError(f"cannot open the ledger {log.name}: {error.strerror or error}") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._log.close()

    def __contains__(self, key: tuple[int, int]) -> bool:
        """Whether the shard (level, index) is done."""
        return self._state(*key) != _UNDONE

    def is_empty(self, level: int, index: int) -> bool:
        """Whether a shard is done without anything on disk, because it is 0 everywhere."""
        return self._state(level, index) == _EMPTY

    def count(self, level: int, shards: range | None = None) -> int:
        """Shards of a level, or of a run of neighbours in it, that are done."""
        flags = self._flags(level, shards)
        return len(flags) - flags.count(_UNDONE)

    def count_empty(self, level: int, shards: range | None = None) -> int:
        """How many of these are empty."""
        return self._flags(level, shards).count(_EMPTY)

    def records(self) -> Iterator[Record]:
        """Every whole record on disk."""
        return self._log.records()

    def refresh(self) -> None:
        """Take note of what other processes have added since."""
        for record in self._log.news(lambda level, index: (level, index) in self):
            if (record.level, record.index) not in self._gone:
                self._mark(record)

    def add(self, record: Record) -> None:
        """Write a record; it is on disk when this returns.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._log.add(record)
        except OSError as error:
            raise StoreError(
                f"cannot write the ledger {self._log.name}: {error.strerror or error}. "
                "Mend that and run the same command again: it goes on where it stopped"
            ) from error
        self._gone.discard((record.level, record.index))
        self._mark(record)

    def size(self, level: int) -> int:
        """One more than the largest index of a level that has a record."""
        return len(self._done.get(level, b""))

    def keep(self, level: int, there: bytearray) -> None:
        """Count those shards of a level as not done that are neither ``there``, a truth an index, nor empty: their
        files are gone. Only :meth:`add` makes them done again."""
        flags = self._done[level]
        for index, state in enumerate(flags):
            if state == _DONE and not there[index]:
                flags[index] = _UNDONE
                self._gone.add((level, index))

    def gone(self, level: int) -> list[int]:
        """Those of a level that were found gone and not made again by this process."""
        return [index for of_level, index in self._gone if of_level == level]

    @property
    def levels(self) -> list[int]:
        """Those that have records."""
        return sorted(self._done)

    def _state(self, level: int, index: int) -> int:
        flags = self._done.get(level, b"")
        return flags[index] if index < len(flags) else _UNDONE

    def _flags(self, level: int, shards: range | None) -> bytes | bytearray:
        flags = self._done.get(level, b"")
        return flags if shards is None else flags[shards.start : shards.stop]

    def _mark(self, record: Record) -> None:
        flags = self._done.setdefault(record.level, bytearray())
        if record.index >= len(flags):
            flags.extend(bytes(record.index + 1 - len(flags)))
        flags[record.index] = _EMPTY if record.empty else _DONE


class FileLog:
    """A file of records appended one after the other; reads every ``*.log`` that stands beside it, one writer each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[Path, int] = {}
        # how far each file was read without a record that is torn

    @property
    def name(self) -> str:
        return str(self._path)

    def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        # A torn last record would put every later one out of step.
        self._file.truncate(self._file.tell() - self._file.tell() % _SIZE)

    def close(self) -> None:
        self._file.close()

    def records(self) -> Iterator[Record]:
        for path in sorted(self._path.parent.glob("*.log")):
            yield from (record for _, record in _in_file(path, 0) if record is not None)

    def news(self, known: Known) -> Iterator[Record]:  # noqa: ARG002
        for path in sorted(self._path.parent.glob("*.log")):
            whole = True
            for end, record in _in_file(path, self._read.get(path, 0)):
                # One that is not whole may be so a moment later: another process is writing it.
                whole = whole and record is not None
                if whole:
                    self._read[path] = end
                if record is not None:
                    yield record

    def add(self, record: Record) -> None:
        self._file.write(record.pack())
        os.fsync(self._file.fileno())


class ObjectLog:
    """One object a record, "<folder>/<level>/<index>": a put is whole, so no two writers can be in each other's way."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder

    @property
    def name(self) -> str:
        return f"{self._objects.url}/{self._folder}"

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def records(self) -> Iterator[Record]:
        return self.news(lambda _level, _index: False)

    def news(self, known: Known) -> Iterator[Record]:
        wanted = {key: place for key in self._objects.keys(self._folder) if (place := self._place(key)) is not None}
        keys = [key for key, place in wanted.items() if not known(*place)]
        for key, data in self._objects.get_many(keys):
            record = Record.unpack(data)
            if record is not None and (record.level, record.index) == wanted[key]:
                yield record

    def add(self, record: Record) -> None:
        self._objects.put(f"{self._folder}/{record.level}/{record.index}", [record.pack()])

    def _place(self, key: str) -> tuple[int, int] | None:
        """(level, index) by an object's name; None for anything else that stands there."""
        level, _, index = key.removeprefix(f"{self._folder}/").partition("/")
        return (int(level), int(index)) if level.isdecimal() and index.isdecimal() else None


def _in_file(path: Path, start: int) -> Iterator[tuple[int, Record | None]]:
    """(where it ends, record) of every record from a place on; None for one that is torn or not a record."""
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(_SIZE):
            yield file.tell(), Record.unpack(data)

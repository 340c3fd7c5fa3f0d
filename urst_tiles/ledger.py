"""The ledger: which shards are done, on disk, crash-safe.

One append-only file of fixed-size records for each process that works at a run; what any of them holds is done. A
record is appended, and forced to disk, only after the shard it speaks of is on disk. A record carries its own
checksum, so one torn by a crash is told apart from a whole one and simply does not count: its shard is computed
again. Nothing here is proportional to pixels; a shard costs one record on disk and one byte in memory.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from urst_tiles.errors import StoreError

__all__ = ["Ledger", "Record"]

_BODY = struct.Struct("<4sIQII")
_SIZE = _BODY.size + 4
_MAGIC = b"UTL1"


@dataclass(frozen=True, slots=True)
class Record:
    """One shard that is on disk."""

    level: int
    # pyramid level, 0 is full size
    index: int
    # the shard's place in its level, row-major
    source_crc: int = 0
    # CRC-32 of the pixels that were read for it; 0 where none were
    target_crc: int = 0
    # CRC-32 of the pixels that were written

    def pack(self) -> bytes:
        body = _BODY.pack(_MAGIC, self.level, self.index, self.source_crc, self.target_crc)
        return body + struct.pack("<I", zlib.crc32(body))

    @staticmethod
    def unpack(data: bytes) -> Record | None:
        """None for a record that is torn or not a record."""
        if len(data) != _SIZE or data[:4] != _MAGIC:
            return None
        if struct.unpack("<I", data[_BODY.size :])[0] != zlib.crc32(data[: _BODY.size]):
            return None
        _, level, index, source_crc, target_crc = _BODY.unpack(data[: _BODY.size])
        return Record(level, index, source_crc, target_crc)


class Ledger:
    """Open for reading and appending; used as a context manager.

    Reads every ledger that stands beside ``path``, appends to ``path`` alone: one writer a file at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[int, bytearray] = {}
        # level → one byte a shard, grown as needed: 1 where it is done
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.refresh()
            self._file = path.open("ab", buffering=0)
            # A torn last record would put every later one out of step.
            self._file.truncate(self._file.tell() - self._file.tell() % _SIZE)
        except OSError as error:
            raise StoreError(f"cannot open the ledger {path}: {error.strerror or error}") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: tuple[int, int]) -> bool:
        """Whether the shard (level, index) is done."""
        level, index = key
        flags = self._done.get(level, b"")
        return index < len(flags) and flags[index] == 1

    def count(self, level: int) -> int:
        """Shards of a level that are done."""
        return self._done.get(level, b"").count(1)

    def records(self) -> Iterator[Record]:
        """Every whole record on disk, file by file, in the order it was written."""
        for path in sorted(self._path.parent.glob("*.log")):
            with path.open("rb") as file:
                while data := file.read(_SIZE):
                    record = Record.unpack(data)
                    if record is not None:
                        yield record

    def refresh(self) -> None:
        """Take note of what other processes have added since."""
        for record in self.records():
            self._mark(record.level, record.index, done=True)

    def add(self, record: Record) -> None:
        """Append and force to disk.

        Raises:
            StoreError: the record cannot be written.
        """
        try:
            self._file.write(record.pack())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write the ledger {self._path}: {error.strerror or error}. "
                "Mend that and run the same command again: it goes on where it stopped"
            ) from error
        self._mark(record.level, record.index, done=True)

    def forget(self, level: int, index: int) -> None:
        """Count a shard as not done (its file is gone); a later :meth:`add` makes it done again."""
        self._mark(level, index, done=False)

    def close(self) -> None:
        self._file.close()

    def _mark(self, level: int, index: int, *, done: bool) -> None:
        flags = self._done.setdefault(level, bytearray())
        if index >= len(flags):
            flags.extend(bytes(index + 1 - len(flags)))
        flags[index] = done

"""What a run reads and writes, counted from outside: pixels asked of a source, bytes of the process's calls by
phase.
"""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from urst_tiles.events import Event, PhaseStarted, RunStarted
from urst_tiles.geometry import Window
from urst_tiles.sources import Pixels, RasterInfo, Source

__all__ = ["CountedSource", "Phases", "level_bytes", "process_bytes"]


def process_bytes(of: str = "self") -> tuple[int, int]:
    """Bytes that this process's calls have read and written so far, from and to anything; zeros where the system does
    not say. ``of="thread-self"``: those of this thread."""
    counters = Path("/proc") / of / "io"
    if not counters.exists():
        return 0, 0
    lines = dict(line.split(": ") for line in counters.read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def level_bytes(store: Path) -> tuple[int, int]:
    """Bytes of the shards of an OME-Zarr's full size, and of its smaller levels together. Metadata are written when
    the store is made."""

    def size(level: Path) -> int:
        return sum(path.stat().st_size for path in level.rglob("*") if path.is_file() and path.name != "zarr.json")

    full, *smaller = (
        size(store / str(number)) for number in range(len([p for p in store.iterdir() if p.name.isdigit()]))
    )
    return full, sum(smaller)


class CountedSource:
    """A source that counts what is asked of it in this process; the thumbnail's own reading is not counted."""

    def __init__(self, source: Source) -> None:
        self._key = uuid.uuid4().hex
        _COUNTED[self._key] = self
        self._source, self._lock = source, threading.Lock()
        self.pixels_read = 0
        self.bytes_read = 0
        # by the threads that asked, of the file
        self.tiles_touched = 0
        # the file's own tiles, once for each window that they are part of

    @property
    def info(self) -> RasterInfo:
        return self._source.info

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def tiles(self) -> int:
        """The file's own tiles; 1 where it has none."""
        return self._touched(Window(0, 0, self.info.width, self.info.height))

    def fingerprint(self) -> dict[str, Any]:
        return self._source.fingerprint()

    def read(self, window: Window) -> Pixels:
        before, _ = process_bytes("thread-self")
        pixels = self._source.read(window)
        after, _ = process_bytes("thread-self")
        with self._lock:
            self.pixels_read += window.area
            self.tiles_touched += self._touched(window)
            self.bytes_read += after - before
        return pixels

    def thumbnail(self, short_side: int) -> Pixels:
        return self._source.thumbnail(short_side)

    def cache_bytes(self, width: int) -> int:
        return self._source.cache_bytes(width)

    def __reduce__(self) -> tuple[Any, ...]:
        return _counted, (self._key,)

    def _touched(self, window: Window) -> int:
        width, height = self.info.tile or (self.info.width, self.info.height)
        cols = -(-window.col_end // width) - window.col_off // width
        return cols * (-(-window.row_end // height) - window.row_off // height)


_COUNTED: WeakValueDictionary[str, CountedSource] = WeakValueDictionary()
"""A run's threads are sent its source even where they are in this process: what arrives is to be the one that was sent,
so that its counts are seen here."""


def _counted(key: str) -> CountedSource:
    return _COUNTED[key]


class Phases:
    """A callback that notes the time and the process's bytes as each phase begins: "start", "statistics", "shards",
    "pyramid", "export".
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, float, tuple[int, int]]] = []
        self._mark("start")

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._mark(event.name)
        elif isinstance(event, RunStarted):
            self._mark("shards")

    def end(self) -> None:
        """The last phase is over."""
        self._mark("end")

    def seconds(self, phase: str) -> float:
        return float(sum(after[1] - before[1] for before, after in self._spans(phase)))

    def bytes_read(self, phase: str) -> int:
        return sum(after[2][0] - before[2][0] for before, after in self._spans(phase))

    def bytes_written(self, phase: str) -> int:
        return sum(after[2][1] - before[2][1] for before, after in self._spans(phase))

    def to_json(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "seconds": self.seconds(name),
                "bytes_read": self.bytes_read(name),
                "bytes_written": self.bytes_written(name),
            }
            for name in dict.fromkeys(mark[0] for mark in self._marks[:-1])
        }

    def _mark(self, name: str) -> None:
        self._marks.append((name, time.perf_counter(), process_bytes()))

    def _spans(self, phase: str) -> list[tuple[Any, Any]]:
        return [
            (before, after) for before, after in zip(self._marks, self._marks[1:], strict=False) if before[0] == phase
        ]

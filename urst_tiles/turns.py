"""Whose windows are run next, where a processor runs them: shards in flight in one process take turns, strip by strip.

::

    shard a   ── read, strip runs ──┐ compress, wait ┌── read, strip runs ──┐
    shard b   wait                  └── read, strip runs ──┘ compress, wait └── …

A strip has the turn until its last window is taken up, so that no call waits while there is a window; the next one is
read while that window runs. Who waits holds next to nothing. Where reading takes long beside running, strips are read
ahead of their turn. One shard more than may hold pixels is under way: its end is written, or it is about to begin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

__all__ = ["NotBegun", "Turns", "under_way"]

_LONG = 0.25
"""Of what strips take to run, what they may take to read within their turns: half of what the last windows take."""


class NotBegun(Exception):  # noqa: N818  (not an error: what was asked for)
    """A shard waited for others to end, and is not to begin any more."""


class Turns:
    """Safe to use from several threads.

    Parameters:
        calls: of the network at the same time, those included that cut out their windows or put them into their
            places; None: as many as come, without turns.
        shards: that hold pixels at the same time, where there are turns.
    """

    def __init__(self, calls: int | None = None, shards: int = 2) -> None:
        self._calls = None if calls is None else threading.BoundedSemaphore(calls)
        self._shards = None if calls is None else threading.BoundedSemaphore(shards)
        self._ends = False
        self._strips = threading.Lock()
        self._learning = threading.Lock()
        self._read = self._run = 0.0

    @property
    def reads_ahead(self) -> bool:
        """Whether a strip is to be read before it has the turn."""
        return self._calls is None or self._read > _LONG * self._run

    def learn(self, read: float, run: float) -> None:
        """What a strip took, in seconds."""
        with self._learning:
            self._read += read
            self._run += run

    @contextmanager
    def shard(self) -> Iterator[None]:
        """Wait until there may be one shard more that holds pixels.

        Raises:
            NotBegun: :meth:`end` was called meanwhile, or before.
        """
        if self._shards is None:
            yield
            return
        with self._shards:
            if self._ends:
                raise NotBegun
            yield

    def end(self) -> None:
        """Where there are turns, no shard begins any more, of those that wait neither."""
        self._ends = True

    @contextmanager
    def strip(self) -> Iterator[Callable[[], None]]:
        """Wait for the turn. It ends with the context, or before that when what is given is called, by any thread."""
        if self._calls is None:
            yield lambda: None
            return
        self._strips.acquire()
        once = threading.Lock()

        def end() -> None:
            if once.acquire(blocking=False):
                self._strips.release()

        try:
            yield end
        finally:
            end()

    def call(self) -> AbstractContextManager[object]:
        """Wait until there may be one call more."""
        return nullcontext() if self._calls is None else self._calls


def under_way(in_flight: int, calls: int) -> int:
    """Shards to work on at the same time, where so many may hold pixels and the network is called so many times at
    once: where there are several calls, shards take turns."""
    return in_flight + (calls > 1)

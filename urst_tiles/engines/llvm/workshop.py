"""Scratch memory and threads."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from urst_tiles.engines.llvm.maps import Map

__all__ = ["Step", "Workshop", "in_turn"]

_LINE = 64
"""Bytes of a line of the processor's cache."""


class Workshop:
    """Scratch memory and threads for the convolutions of one engine.

    Parameters:
        threads: that one call runs on.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads - 1, "convolution") if self.threads > 1 else None
        self._scratch = queue.LifoQueue[Map]()

    @contextmanager
    def scratch(self, floats: int) -> Iterator[int]:
        """Address of so much memory at least, where a line of the cache begins. It is kept for the next one that
        asks."""
        try:
            memory = self._scratch.get_nowait()
        except queue.Empty:
            memory = np.empty(0, np.float32)
        if memory.size < floats:
            # Zeros, not what was there: the last block multiplies rows that nobody has written.
            whole = np.zeros(floats + _LINE // 4, np.float32)
            skipped = -whole.ctypes.data % _LINE // 4
            memory = whole[skipped : skipped + floats]
        try:
            yield memory.ctypes.data
        finally:
            self._scratch.put(memory)

    def share(self, work: Callable[[int, int], None], count: int, unit: int = 1) -> None:
        """``work(first, last)`` for all of ``count`` things, on as many threads as there are, in whole units.

        The first error is raised when all have ended.
        """
        if self._pool is None:
            work(0, count)
            return
        units = -(-count // unit)
        cuts = [unit * (units * part // self.threads) for part in range(self.threads)] + [count]
        mine, *others = [(first, last) for first, last in pairwise(cuts) if first < last]
        waiting = [self._pool.submit(work, *part) for part in others]
        try:
            work(*mine)
        finally:
            for each in waiting:
                each.exception()
        for each in waiting:
            each.result()


@dataclass(frozen=True, slots=True)
class Step:
    """Work that is told once where everything stands, and can be done again and again: to tell it takes longer than a
    small window's work.

    Attributes:
        workshop: whose threads share it.
        work, count, unit: see :meth:`Workshop.share`.
        held: arrays whose addresses the work knows.
    """

    workshop: Workshop
    work: Callable[[int, int], None]
    count: int
    unit: int
    held: tuple[object, ...]

    def __call__(self) -> None:
        self.workshop.share(self.work, self.count, self.unit)


def in_turn(steps: Iterable[Callable[[], None]]) -> None:
    """One after the other."""
    for step in steps:
        step()

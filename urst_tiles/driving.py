"""The driver of a run's tasks: a few in flight, each with a lease that every sign of life renews.

Dask knows when a worker dies, and runs its tasks elsewhere. It does not know when a task hangs on a worker that is
alive, say in a read from a disk that no longer answers: that is what the leases are for.

A message to a worker and back takes Dask some 10 ms and a task 2 ms of the processor. Shards that are done quicker than
that go several to a task.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from dask.utils import key_split
from distributed import Client
from distributed.client import Future
from distributed.scheduler import KilledWorker

from urst_tiles.errors import WorkerError
from urst_tiles.events import Stop

__all__ = ["TASK_SECONDS", "Driver", "Patience", "Sign"]

TASK_SECONDS = 0.25
"""What several shards in one task take together: a task that takes longer gives the rest back."""

_MOST = 128
"""Shards in a task, at most."""

_ALONE = 32
"""Shards at the beginning of a run that have a task each: what one takes is not known yet."""

_POLL = 0.5
"""Seconds between two looks at the leases."""

_REMEMBERED = 4096
"""Tasks after which Dask's memory of their names is cleared: it keeps 100,000 of them."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a shard may give no sign, in seconds."""

    timeout: float | None = None
    # None: ten times what the slowest shard so far took, an hour while there is none
    least: float = 900.0
    first: float = 3600.0

    def seconds(self, slowest: float | None) -> float:
        if self.timeout is not None:
            return self.timeout
        return self.first if slowest is None else max(self.least, 10 * slowest)


@dataclass(frozen=True, slots=True)
class Sign:
    """A task lives: it began, or ran some windows."""

    task: int
    # its first shard
    shard: int
    # the one it has come to
    pixels: int
    # of that shard, run since the last sign; 0 when the task begins
    worker: str


@dataclass(slots=True)
class _Flight:
    """Shards that some worker has, or will have, in one task."""

    future: Future[Any]
    shards: Sequence[int]
    attempt: int = 0
    worker: str | None = None
    # the last one that gave a sign
    began: float | None = None
    seen: float = 0.0
    run: dict[int, int] = field(default_factory=dict)
    # pixels of its shards since it began
    told: dict[int, int] = field(default_factory=dict)
    # pixels told of, which do not count again when a task is run again


@dataclass(slots=True)
class Driver:
    """Submits shards to ``task``, which returns a report of each, with its ``index``, the ``pixels`` it is of and the
    ``seconds`` it took, or of the first ones where it was to go no further. ``tell_the_end`` has workers begin no shard
    any more, and may wait for those that do not answer. Used once, by one thread."""

    client: Client
    task: Callable[[str, Sequence[int]], Sequence[Any]]
    tell_the_end: Callable[[], None]
    name: str
    on_report: Callable[[Any], None]
    on_tiles: Callable[[int, int], None] | None
    stop: Stop
    patience: Patience
    grouped: bool = True
    # whether quick shards may go several to a task
    inbox: queue.SimpleQueue[Sign | tuple[int, Future[Any]]] = field(default_factory=queue.SimpleQueue)
    _flights: dict[int, _Flight] = field(default_factory=dict)
    # by first shard
    _given_back: deque[int] = field(default_factory=deque)
    # shards that a task did not come to
    hung: set[str] = field(default_factory=set)
    # workers that gave no sign when one was due, and none since
    _slowest: float | None = None
    _failure: BaseException | None = None
    _ends: bool = False
    # no shard begins any more
    _landed: int = 0
    # tasks
    _reported: int = 0
    # shards
    _seconds: float = 0.0
    # that a shard takes, lately

    def drive(self, indices: Iterator[int], in_flight: int) -> None:
        """``in_flight`` tasks at a time, until all are done, one failed, or it was asked to stop; those that have begun
        are always finished.

        Raises:
            WorkerError: a worker hung or died, and there is no other.
            BaseException: the first error of a task.
        """
        self._fill(indices, in_flight)
        while self._flights:
            self._check_leases()
            self._check_end()
            try:
                item = self.inbox.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(item, Sign):
                self._renew(item)
            else:
                self._land(*item)
                self._fill(indices, in_flight)
        if self._failure is not None:
            raise self._failure

    def _fill(self, indices: Iterator[int], in_flight: int) -> None:
        while len(self._flights) < in_flight and not self._check_end():
            # One by one: what waits to be given out again comes first, and changes meanwhile.
            shards = tuple(islice(chain(self._again(), indices), self._together()))
            if not shards:
                return
            self._flights[shards[0]] = _Flight(self._submit(shards, 0), shards)

    def _check_end(self) -> bool:
        """Whether no shard is to begin any more; told once."""
        if not self._ends and (self._failure is not None or self.stop()):
            self._ends = True
            threading.Thread(target=self.tell_the_end, daemon=True).start()
        return self._ends

    def _again(self) -> Iterator[int]:
        while self._given_back:
            yield self._given_back.popleft()

    def _together(self) -> int:
        """Shards in the next task."""
        if self._reported < _ALONE or not self.grouped:
            return 1
        return max(1, min(int(TASK_SECONDS / max(self._seconds, 1e-6)), _MOST))

    def _submit(self, shards: Sequence[int], attempt: int) -> Future[Any]:
        first = shards[0]
        future = self.client.submit(
            self.task,
            self.name,
            shards,
            pure=False,
            key=f"{self.name}-{first}-{attempt}",
            workers=self._others() if self.hung else None,
        )
        future.add_done_callback(lambda done: self.inbox.put((first, done)))
        return future

    def _renew(self, sign: Sign) -> None:
        self.hung.discard(sign.worker)
        flight = self._flights.get(sign.task)
        if flight is None:
            return
        flight.seen, flight.worker = time.monotonic(), sign.worker
        if sign.pixels == 0:
            flight.began = flight.seen
            flight.run.clear()
        flight.run[sign.shard] = flight.run.get(sign.shard, 0) + sign.pixels
        self._tell(flight, sign.shard, flight.run[sign.shard])

    def _tell(self, flight: _Flight, shard: int, pixels: int) -> None:
        """That so many pixels of a shard were run, unless that has been told."""
        told = flight.told.get(shard, 0)
        if pixels > told:
            if self.on_tiles is not None:
                self.on_tiles(shard, pixels - told)
            flight.told[shard] = pixels

    def _land(self, first: int, future: Future[Any]) -> None:
        flight = self._flights.get(first)
        if flight is None or flight.future is not future:
            return  # given to another worker meanwhile
        if future.cancelled():
            raise WorkerError("the Dask scheduler gave up this run or went away; the same command goes on")
        error = future.exception()
        reports: Sequence[Any] = future.result() if error is None else ()
        del self._flights[first]
        future.release()
        self._landed += 1
        if self._landed % _REMEMBERED == 0:
            key_split.cache_clear()
        if error is None:
            if flight.began is not None:
                self._slowest = max(self._slowest or 0.0, time.monotonic() - flight.began)
            self._given_back.extendleft(reversed(flight.shards[len(reports) :]))
            for report in reports:
                self._tell(flight, report.index, report.pixels)
                self._seconds = max(report.seconds, 0.9 * self._seconds + 0.1 * report.seconds)
                self._reported += 1
                self.on_report(report)
        elif self._failure is None:
            self._failure = _explained(error, first)

    def _check_leases(self) -> None:
        patience = self.patience.seconds(self._slowest)
        now = time.monotonic()
        late = {
            flight.worker for flight in self._flights.values() if flight.worker and now - flight.seen > patience
        } - self.hung
        for worker in sorted(late):
            self.hung.add(worker)
            self._hand_over(worker, patience)

    def _hand_over(self, worker: str, patience: float) -> None:
        """Give what a worker holds, begun or waiting there, to the others."""
        held = {str(key) for keys in self.client.processing(workers=[worker]).values() for key in keys}
        mine = {first: flight for first, flight in self._flights.items() if str(flight.future.key) in held}
        mine |= {first: flight for first, flight in self._flights.items() if flight.worker == worker}
        if not self._others():
            raise self._failure or WorkerError(
                f"shard {min(mine)} has given no sign for {patience:.0f} s on {worker}, and there is no other worker "
                "to give it to. See whether the raster's disk answers, or allow more with --timeout; "
                "the same command goes on"
            )
        for first, flight in mine.items():
            attempt = flight.attempt + 1
            future = self._submit(flight.shards, attempt)
            self._flights[first] = _Flight(future, flight.shards, attempt, told=flight.told)
            flight.future.cancel()

    def _others(self) -> list[str]:
        """Workers that are not known to hang."""
        return [worker for worker in self.client.scheduler_info(n_workers=-1)["workers"] if worker not in self.hung]


def _explained(error: BaseException, index: int) -> BaseException:
    if not isinstance(error, KilledWorker):
        return error
    return WorkerError(
        f"shard {index} was given to several workers and each of them died, most often for want of memory: "
        "give the machine more, or use --memory or a smaller --window; the same command goes on"
    )

"""The driver of a run's tasks: a few in flight, each with a lease that every sign of life renews.

Dask knows when a worker dies, and runs its tasks elsewhere. It does not know when a task hangs on a worker that is
alive, say in a read from a disk that no longer answers: that is what the leases are for.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dask.utils import key_split
from distributed import Client
from distributed.client import Future
from distributed.scheduler import KilledWorker

from urst_tiles.errors import WorkerError
from urst_tiles.events import Stop

__all__ = ["Driver", "Patience", "Sign"]

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

    index: int
    pixels: int
    # run since the last sign; 0 when it begins
    worker: str


@dataclass(slots=True)
class _Flight:
    """A shard that some worker has, or will have."""

    future: Future[Any]
    attempt: int = 0
    worker: str | None = None
    # the last one that gave a sign
    began: float | None = None
    seen: float = 0.0
    run: int = 0
    # pixels since it began
    told: int = 0
    # pixels told of, which do not count again when a task is run again


@dataclass(slots=True)
class Driver:
    """Submits indices to ``task`` and hands over what comes back, which says how many ``pixels`` it is of. Used once,
    by one thread."""

    client: Client
    task: Callable[[str, int], Any]
    name: str
    on_report: Callable[[Any], None]
    on_tiles: Callable[[int, int], None] | None
    stop: Stop
    patience: Patience
    inbox: queue.SimpleQueue[Sign | tuple[int, Future[Any]]] = field(default_factory=queue.SimpleQueue)
    _flights: dict[int, _Flight] = field(default_factory=dict)
    hung: set[str] = field(default_factory=set)
    # workers that gave no sign when one was due, and none since
    _slowest: float | None = None
    _failure: BaseException | None = None
    _landed: int = 0

    def drive(self, indices: Iterator[int], in_flight: int) -> None:
        """Until all are done, one failed, or it was asked to stop; those in flight are always finished.

        Raises:
            WorkerError: a worker hung or died, and there is no other.
            BaseException: the first error of a task.
        """
        self._fill(indices, in_flight)
        while self._flights:
            self._check_leases()
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
        while len(self._flights) < in_flight and self._failure is None and not self.stop():
            index = next(indices, None)
            if index is None:
                return
            self._flights[index] = _Flight(self._submit(index, 0))

    def _submit(self, index: int, attempt: int) -> Future[Any]:
        future = self.client.submit(
            self.task,
            self.name,
            index,
            pure=False,
            key=f"{self.name}-{index}-{attempt}",
            workers=self._others() if self.hung else None,
        )
        future.add_done_callback(lambda done: self.inbox.put((index, done)))
        return future

    def _renew(self, sign: Sign) -> None:
        self.hung.discard(sign.worker)
        flight = self._flights.get(sign.index)
        if flight is None:
            return
        flight.seen, flight.worker = time.monotonic(), sign.worker
        if sign.pixels == 0:
            flight.began, flight.run = flight.seen, 0
        flight.run += sign.pixels
        if flight.run > flight.told:
            if self.on_tiles is not None:
                self.on_tiles(sign.index, flight.run - flight.told)
            flight.told = flight.run

    def _land(self, index: int, future: Future[Any]) -> None:
        flight = self._flights.get(index)
        if flight is None or flight.future is not future:
            return  # given to another worker meanwhile
        if future.cancelled():
            raise WorkerError("the Dask scheduler gave up this run or went away; the same command goes on")
        error = future.exception()
        report: Any = future.result() if error is None else None
        del self._flights[index]
        future.release()
        self._landed += 1
        if self._landed % _REMEMBERED == 0:
            key_split.cache_clear()
        if error is None:
            if flight.began is not None:
                self._slowest = max(self._slowest or 0.0, time.monotonic() - flight.began)
            if self.on_tiles is not None and flight.told < report.pixels:
                self.on_tiles(index, report.pixels - flight.told)
            self.on_report(report)
        elif self._failure is None:
            self._failure = _explained(error, index)

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
        mine = {index: flight for index, flight in self._flights.items() if str(flight.future.key) in held}
        mine |= {index: flight for index, flight in self._flights.items() if flight.worker == worker}
        if not self._others():
            raise self._failure or WorkerError(
                f"shard {min(mine)} has given no sign for {patience:.0f} s on {worker}, and there is no other worker "
                "to give it to. See whether the raster's disk answers, or allow more with --timeout; "
                "the same command goes on"
            )
        for index, flight in mine.items():
            attempt = flight.attempt + 1
            self._flights[index] = _Flight(self._submit(index, attempt), attempt, told=flight.told)
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

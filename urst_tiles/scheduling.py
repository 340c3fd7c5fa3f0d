"""Dask runs the shards, on whatever cluster it is given.

A task carries the indices of a shard or some small ones and returns a short report of each; pixels never cross the
scheduler. The network, the source and the store go to each worker once, as a plugin. The driver keeps a few tasks in
flight and no more: Dask's own queue would hand a single worker thousands of them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distributed import Client, Worker, WorkerPlugin, get_worker

from urst_tiles.allocator import free_cycles, return_freed_memory
from urst_tiles.buffers import ShardBuffers
from urst_tiles.driving import TASK_SECONDS, Driver, Patience, Sign
from urst_tiles.engines.base import Engine
from urst_tiles.engines.choosing import EngineName, make_engine
from urst_tiles.engines.devices import choose_device
from urst_tiles.engines.torch import Precision
from urst_tiles.events import Stop
from urst_tiles.geometry import TilePlan
from urst_tiles.memory import peak_memory
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.shards import ShardReport, process_shard
from urst_tiles.sources.base import Source
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.stores.base import Store
from urst_tiles.turns import NotBegun, Turns

__all__ = ["ShardJob", "run_shards"]

_log = logging.getLogger(__name__)

_SIGNS_APART = 0.5
"""Seconds between two signs of life of a task, at least."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """Everything a worker needs, sent to it once."""

    plan: TilePlan
    source: Source
    store: Store
    network: FrozenNetwork
    batch: int
    device: str
    precision: Precision
    engine: EngineName = "torch"
    # the same on every worker
    device_memory: int | None = None
    # bytes of a GPU that a worker may hold
    calls: int = 1
    # of the network, at the same time
    in_flight: int = 2
    # shards that hold pixels at the same time, where they take turns
    colours: Colours = AS_THEY_ARE


class _JobPlugin(WorkerPlugin):
    """Holds a job on a worker: one engine, made when first needed, and let go with the job."""

    def __init__(self, name: str, job: ShardJob) -> None:
        self.name = name
        self.job = job

    def setup(self, worker: Worker) -> None:
        return_freed_memory()
        self._worker = worker
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        # A GPU's engine copies windows while it runs others; where one call runs at a time, shards fill each other's
        # gaps.
        turns = self.job.calls > 1 and choose_device(self.job.device).type == "cpu"
        # One window more than are run at the same time is cut out meanwhile, or put into its place.
        self._calls = self.job.calls + turns
        self._turns = Turns(self._calls if turns else None, self.job.in_flight)
        self._buffers = ShardBuffers()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask gives it)
        # What it holds, an engine may hold for the next batch; what follows a run's shards needs the room.
        self._engine, self._buffers = None, ShardBuffers()
        free_cycles()

    def end(self) -> None:
        """Let shards that have begun be finished; those that wait for them are not to begin."""
        self._turns.end()

    def process(self, shards: Sequence[int]) -> list[ShardReport]:
        """Of the first of them at least, unless it was not to begin any more; the rest is left where it takes too long
        or goes wrong."""
        reports = self._reports(shards)
        if reports:
            reports[-1] = replace(reports[-1], process=os.getpid(), memory=peak_memory())
        return reports

    def _reports(self, shards: Sequence[int]) -> list[ShardReport]:
        signs = _Signs(lambda shard, pixels: self._sign(shards[0], shard, pixels), shards[0])
        started, reports = time.monotonic(), list[ShardReport]()
        for shard in shards:
            signs.shard = shard
            try:
                reports.append(self._process(shard, signs))
            except NotBegun:
                return reports
            except Exception:
                if not reports:
                    raise
                return reports  # the driver asks for the rest again, and hears of it then
            if time.monotonic() - started > TASK_SECONDS:
                break
        return reports

    def _process(self, shard: int, signs: _Signs) -> ShardReport:
        job = self.job
        return process_shard(
            job.plan[shard],
            job.source,
            self._the_engine(),
            job.store,
            batch=job.batch,
            calls=self._calls,
            turns=self._turns,
            buffers=self._buffers,
            on_tiles=signs,
            colours=job.colours,
        )

    def _the_engine(self) -> Engine:
        job = self.job
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(
                    job.network,
                    engine=job.engine,
                    device=job.device,
                    precision=job.precision,
                    device_memory=job.device_memory,
                    calls=job.calls,
                )
            return self._engine

    def _sign(self, task: int, shard: int, pixels: int) -> None:
        self._worker.log_event(self.name, (task, shard, pixels, self._worker.address))


class _Signs:
    """Tells that a task began, and then how many pixels of a shard were run, every half second at most: a sign takes
    the scheduler longer than a small window takes the network. What is not told when a shard ends, its report tells."""

    def __init__(self, send: Callable[[int, int], None], first: int) -> None:
        self._send, self._pixels, self._sent = send, 0, time.monotonic()
        self._shard = first
        send(first, 0)

    @property
    def shard(self) -> int:
        """The one the task has come to."""
        return self._shard

    @shard.setter
    def shard(self, shard: int) -> None:
        self._shard, self._pixels = shard, 0

    def __call__(self, pixels: int) -> None:
        self._pixels += pixels
        if time.monotonic() - self._sent >= _SIGNS_APART:
            self._send(self._shard, self._pixels)
            self._pixels, self._sent = 0, time.monotonic()


def _process(name: str, shards: Sequence[int]) -> list[ShardReport]:
    """The task."""
    plugin: Any = get_worker().plugins[name]
    reports: list[ShardReport] = plugin.process(shards)
    return reports


def _end(name: str, dask_worker: Worker) -> None:
    """Tell a job on a worker; Dask fills in the worker by this name."""
    plugin: Any = dask_worker.plugins.get(name)
    if plugin is not None:
        plugin.end()


def _tell_the_end(client: Client, name: str) -> None:
    """To all workers; one that does not answer has begun what it holds."""
    try:
        client.run(_end, name, on_error="ignore")
    except Exception:  # noqa: BLE001  (however the connection ended: the run ends too)
        _log.debug("not all workers heard that the run ends", exc_info=True)


def run_shards(
    job: ShardJob,
    indices: Iterable[int],
    *,
    client: Client,
    in_flight: int,
    on_report: Callable[[ShardReport], None],
    on_tiles: Callable[[int, int], None] | None = None,
    stop: Stop = lambda: False,
    patience: Patience = Patience(),  # noqa: B008  (a frozen value)
    grouped: bool = True,
) -> None:
    """Run shards, at most ``in_flight`` tasks of them at a time, and hand over each report as it comes, in no order.
    ``on_tiles`` is called with (shard index, pixels), once for each pixel, before the report of its shard.

    When a shard fails, or ``stop`` says so, no new one begins and those that have are finished and reported; then the
    first error is raised. A shard that gives no sign for longer than ``patience`` is given to another worker.
    Unless ``grouped``, each shard has a task of its own, so that they are begun in this order.

    Raises:
        WorkerError: there is no other worker.
    """
    name = f"urst-tiles-{uuid.uuid4().hex}"
    tell_the_end = partial(_tell_the_end, client, name)
    driver = Driver(client, _process, tell_the_end, name, on_report, on_tiles, stop, patience, grouped)
    client.subscribe_topic(name, lambda event: driver.inbox.put(Sign(*event[1])))
    client.register_plugin(_JobPlugin(name, job))
    try:
        driver.drive(iter(indices), in_flight)
    finally:
        if not driver.hung:  # a worker that hangs may not answer
            client.unregister_worker_plugin(name)
        client.unsubscribe_topic(name)

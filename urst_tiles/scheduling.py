"""Dask runs the shards: in this process by default, on any cluster when given one.

A task carries a shard's index and returns a small report; pixels never cross the scheduler. The network, the source
and the store go to each worker once, as a plugin. The driver keeps a few shards in flight and no more: Dask's own
queue would hand a single worker thousands of them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin, as_completed, get_worker

from urst_tiles.allocator import return_freed_memory
from urst_tiles.engines.base import Engine
from urst_tiles.engines.torch import Precision, TorchEngine
from urst_tiles.geometry import TilePlan
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.shards import ShardReport, process_shard
from urst_tiles.sources.base import Source
from urst_tiles.stores.base import Store

__all__ = ["ShardJob", "local_client", "run_shards"]


_NOWHERE = "127.0.0.1:0"
"""Dask starts its HTTP servers in any case: on a free port of this machine alone, and with nothing to serve."""


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


class _JobPlugin(WorkerPlugin):
    """Holds a job on a worker: one engine, made when first needed, behind one lock."""

    def __init__(self, name: str, job: ShardJob) -> None:
        self.name = name
        self.job = job

    def setup(self, worker: Worker) -> None:
        return_freed_memory()
        self._worker = worker
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def process(self, index: int) -> ShardReport:
        job = self.job
        with self._lock:
            if self._engine is None:
                self._engine = TorchEngine(job.network, device=job.device, precision=job.precision)
        return process_shard(
            job.plan[index],
            job.source,
            self._engine,
            job.store,
            batch=job.batch,
            lock=self._lock,
            on_tiles=lambda pixels: self._worker.log_event(self.name, (index, pixels)),
        )


def _process(name: str, index: int) -> ShardReport:
    """The task."""
    plugin: Any = get_worker().plugins[name]
    report: ShardReport = plugin.process(index)
    return report


@contextlib.contextmanager
def local_client(threads: int) -> Iterator[Client]:
    """A Dask cluster inside this process: threads, no spilling, no dashboard."""
    config = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.admin.tick.limit": "1h",
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            dashboard_address=_NOWHERE,
            worker_dashboard_address=_NOWHERE,
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def run_shards(
    job: ShardJob,
    indices: Iterable[int],
    *,
    client: Client,
    in_flight: int,
    on_report: Callable[[ShardReport], None],
    on_tiles: Callable[[int, int], None] | None = None,
) -> None:
    """Run shards, at most ``in_flight`` of them at a time, and hand over each report as it comes, in no particular
    order.

    When a shard fails no new one is started, those in flight are finished and reported, and then the first error is
    raised. ``on_tiles`` is called from another thread with (shard index, pixels).
    """
    name = f"urst-tiles-{uuid.uuid4().hex}"
    if on_tiles is not None:
        client.subscribe_topic(name, lambda event: on_tiles(*event[1]))
    client.register_plugin(_JobPlugin(name, job))
    try:
        _drive(client, name, iter(indices), in_flight, on_report)
    finally:
        client.unregister_worker_plugin(name)
        if on_tiles is not None:
            client.unsubscribe_topic(name)


def _drive(
    client: Client, name: str, remaining: Iterator[int], in_flight: int, on_report: Callable[[ShardReport], None]
) -> None:
    def submit(index: int) -> Any:
        return client.submit(_process, name, index, pure=False, key=f"{name}-{index}")

    first = [submit(index) for _, index in zip(range(in_flight), remaining, strict=False)]
    failure: BaseException | None = None
    done = as_completed(first)
    for future in done:
        error = future.exception()
        if error is None:
            on_report(future.result())
        elif failure is None:
            failure = error
        future.release()
        if failure is None:
            for index in remaining:
                done.add(submit(index))
                break
    if failure is not None:
        raise failure

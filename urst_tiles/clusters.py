"""The Dask clusters a run starts by itself: threads in this process, or processes on this machine."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dask
import distributed.core
import torch
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

from urst_tiles.errors import InputError

__all__ = ["local_client", "local_workers", "visible_gpus", "worker_environment"]

_NOWHERE = "127.0.0.1:0"
"""Dask starts its HTTP servers in any case: on a free port of this machine alone, and with nothing to serve."""

_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Nobody looks at what Dask measures of itself 50 times a second, in each of three servers: 3 % of a core.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


_STARTING = threading.Lock()
"""Held while a cluster starts: Dask's settings are the whole process's, and it imports parts of itself."""


class _Hush:
    """Dask's log lines, but for errors, are not shown while a cluster of ours lives. The handlers are the whole
    process's: the first one to come turns them down, the last one to go turns them up."""

    def __init__(self) -> None:
        self._lock, self._alive = threading.Lock(), 0
        self._before: list[tuple[logging.Handler, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._alive += 1
            if self._alive == 1:
                handlers = logging.getLogger("distributed").handlers
                self._before = [(each, each.level) for each in handlers if isinstance(each, logging.StreamHandler)]
                for handler, level in self._before:
                    handler.setLevel(max(level, logging.ERROR))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._alive -= 1
            if self._alive == 0:
                for handler, level in self._before:
                    handler.setLevel(level)


_HUSH = _Hush()


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Of a cluster that has closed nothing is left. Dask remembers of every method of its servers whether it answers by
    itself, and with the method the server, for good (``core._expects_comm``)."""
    try:
        yield
    finally:
        forget = getattr(getattr(distributed.core, "_expects_comm", None), "cache_clear", None)
        if forget is not None:
            forget()


@contextlib.contextmanager
def local_client(threads: int) -> Iterator[Client]:
    """A Dask cluster inside this process: threads, no spilling, no dashboard."""
    with _HUSH, _forgotten(), contextlib.ExitStack() as stack:
        with _STARTING, dask.config.set(_CONFIG):
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=threads,
                processes=False,
                dashboard_address=_NOWHERE,
                worker_dashboard_address=_NOWHERE,
                memory_limit=0,
                silence_logs=False,
            )
            client = stack.enter_context(Client(stack.enter_context(cluster), set_as_default=False))
        yield client


@contextlib.contextmanager
def local_workers(count: int, threads: int, *, device: str = "auto") -> Iterator[Client]:
    """A Dask cluster of ``count`` processes on this machine, each watched and started again when it dies.

    Raises:
        InputError: there is no such number of workers.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"workers must be a whole number of at least 1, not {count!r}")
    gpus = visible_gpus(device)
    # The processor's cores are shared out; a number that the user has set stays.
    cores = {name: str(max(1, (os.cpu_count() or 1) // count)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    config = {**_CONFIG, "distributed.nanny.pre-spawn-environ": cores}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": _NOWHERE}}
    workers = {number: _worker(threads, worker_environment(number, gpus)) for number in range(count)}
    with _HUSH, _forgotten(), contextlib.ExitStack() as stack:
        with _STARTING, dask.config.set(config), _deaf_children():
            cluster = stack.enter_context(
                SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False, name="urst-tiles")
            )
            client = stack.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(count)
        yield client


def visible_gpus(device: str) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may name here, one GPU each; empty where no GPU is wanted, or one was named."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(str(number) for number in range(torch.cuda.device_count()))


def worker_environment(number: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of a worker process: one GPU, in turn; more workers than GPUs share them."""
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}


def _worker(threads: int, environment: Mapping[str, str]) -> dict[str, Any]:
    options = {
        "host": "127.0.0.1",
        "nthreads": threads,
        "memory_limit": 0,
        "env": dict(environment),
        "dashboard_address": _NOWHERE,
        "silence_logs": logging.CRITICAL,
    }
    return {"cls": Nanny, "options": options}


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started by threads that are begun here never hear SIGINT and SIGTERM.

    A terminal sends Ctrl-C to all of a program's processes: the workers are to finish their shards, and end with the
    driver. A thread's blocked signals are those of the thread that began it, a process's those of its thread.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It unblocks them when it is first needed.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

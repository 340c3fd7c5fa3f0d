"""Runs in processes of their own that are killed, stopped and signalled, and what they must end as."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
SETTINGS = ("--network", "identity", "--window", "32", "--thumbnail", "64", "--quiet")
RECORD = 28
"""Bytes of a ledger's record."""


def start(source: Path, target: Path, *words: object, settings: Sequence[str] = SETTINGS) -> subprocess.Popen[str]:
    """The command in a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "urst_tiles", "stylize", str(source), str(target), *settings, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def recorded(target: Path) -> int:
    """Shards, of all levels, that the ledgers of an unfinished run hold."""
    sizes = 0
    for ledger in (target.with_name(target.name + ".partial.zarr") / "urst" / "ledger").glob("*.log"):
        sizes += ledger.stat().st_size
    return sizes // RECORD


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> bool:
    """Whether something came true before the process ended."""
    while process.poll() is None:
        if reached():
            return True
        time.sleep(0.002)
    return False


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def workers_of(process: subprocess.Popen[str]) -> Sequence[psutil.Process]:
    """The worker processes of a driver: its children that are no helpers of multiprocessing's own."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    except psutil.Error:
        return []


def kill(process: psutil.Process) -> None:
    """kill -9, of one that may have ended by itself."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return

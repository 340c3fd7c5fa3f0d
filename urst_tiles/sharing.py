"""Who works at a run: one process, or several parts of it at once on a shared file system.

A process takes a seat at a run, a file lock that ends with the process however it ends. Seats are taken and left one
process at a time, behind a gate; so the first one creates the store and the others find it, and the last one at work
knows that it is the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from urst_tiles.errors import RunStopped, StoreError
from urst_tiles.events import Callback, PhaseStarted, Stop
from urst_tiles.folders import RunFolder
from urst_tiles.options import Part

__all__ = ["Seat", "gate"]

_PATIENCE = 0.2
"""Seconds between two looks at a gate that is shut."""

_MAIN = "main"


@contextlib.contextmanager
def gate(path: Path, name: object, stop: Stop, tell: Callback) -> Iterator[None]:
    """One process at a time, among all that come to this file; it stands only while one is inside. ``name`` says what
    is waited for.

    Raises:
        RunStopped: it was asked for while this process waited.
        StoreError: no file can be locked there.
    """
    lock, told = FileLock(path), False
    while not _locked(lock, _PATIENCE):
        if stop():
            raise RunStopped(f"stopped while waiting for another process at {name}; the same command goes on")
        if not told:
            tell(PhaseStarted("wait"))
            told = True
    try:
        yield
    finally:
        # While it is held: who waits sees that the file is gone and makes another.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


class Seat:
    """A process's seat at a run: the whole of it ("main") or one part. Taken and left with the gate held."""

    def __init__(self, folder: RunFolder, part: Part | None) -> None:
        self._folder = folder
        self._held: list[FileLock] = []
        self.name = _MAIN if part is None else f"part-{part.index}-of-{part.count}"

    @property
    def ledger(self) -> Path:
        """The file this process writes what is done to."""
        return self._folder.ledgers / f"{self.name}.log"

    def check(self) -> None:
        """Whether the seat may be taken.

        Raises:
            StoreError: it is taken, or this is to be the only process at the run and is not.
        """
        # Parts sit together; who does the whole run, or finishes it, sits alone.
        in_the_way = [name for name in self._taken() if _MAIN in (self.name, name) or name == self.name]
        if in_the_way:
            raise StoreError(
                f"{self._folder.store} is being written by another run ({', '.join(in_the_way)}); wait for it to end"
            )

    def take(self) -> None:
        """Sit down, until :meth:`leave` or the end of the process."""
        self.check()
        self._hold(self.name)

    def alone(self) -> bool:
        """Whether nobody else has a seat."""
        return not [name for name in self._taken() if name != self.name]

    def finish(self) -> None:
        """Keep everybody out from now on: only for one who is alone."""
        if self.name != _MAIN:
            self._hold(_MAIN)

    def leave(self) -> None:
        while self._held:
            self._held.pop().release()

    def _hold(self, name: str) -> None:
        self._folder.locks.mkdir(exist_ok=True)
        lock = FileLock(self._folder.locks / f"{name}.lock")
        lock.acquire(timeout=0)
        self._held.append(lock)

    def _taken(self) -> list[str]:
        """Names of the seats that other processes hold, and of our own."""
        return [path.stem for path in sorted(self._folder.locks.glob("*.lock")) if not _free(path)]


def _free(path: Path) -> bool:
    lock = FileLock(path)
    if not _locked(lock, 0):
        return False
    lock.release()
    return True


def _locked(lock: FileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        raise StoreError(f"cannot lock {lock.lock_file}: {error}. A run needs a place with file locks") from error
    return True

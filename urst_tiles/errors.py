"""The package's own errors: one clear line each, saying what was asked, what there is and what to do.

Everything a user can mend is a :class:`UrstTilesError`; the command line turns it into one line on stderr and exit
status 2.
"""

from __future__ import annotations

__all__ = [
    "DeviceMemoryError",
    "InputError",
    "MemoryBudgetError",
    "NetworkError",
    "RunMismatchError",
    "RunStopped",
    "SourceError",
    "StoreError",
    "UrstTilesError",
    "WorkerError",
    "reason_of",
]

_LONGEST = 200
"""Characters of what another library said: some print what they were given, all of it."""


def reason_of(error: BaseException) -> str:
    """What another library said, in one line that can stand in ours."""
    said = " ".join(str(error).split())
    if len(said) > _LONGEST:
        said = said[: _LONGEST - 1] + "…"
    return said or type(error).__name__


class UrstTilesError(Exception):
    """Base of every error raised on purpose by this package."""


class InputError(UrstTilesError, ValueError):
    """An argument is out of range or two arguments contradict each other."""


class SourceError(UrstTilesError):
    """A raster cannot be opened or a part of it cannot be read."""


class NetworkError(UrstTilesError):
    """Weights cannot be read or belong to another network, or a network's graph cannot be analysed."""


class StoreError(UrstTilesError):
    """A target cannot be created, opened or written."""


class RunMismatchError(StoreError):
    """The target holds a run with other settings than the ones asked for."""


class WorkerError(UrstTilesError):
    """A worker died or hung, and there is no other one to do its work. The same call goes on."""


class DeviceMemoryError(UrstTilesError):
    """The network and one window are too much for a GPU: for its memory, or for what it counts in 32 bits."""


class RunStopped(UrstTilesError):  # noqa: N818  (not an error: what was asked for)
    """The run stopped because it was asked to. What is done is on disk; the same call goes on."""


class MemoryBudgetError(UrstTilesError):
    """No setting fits the memory budget; ``smallest`` is the smallest budget in bytes that works."""

    def __init__(self, message: str, *, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and Dask pickles what a task raises.
        return (_rebuild_memory_error, (str(self), self.smallest))


def _rebuild_memory_error(message: str, smallest: int) -> MemoryBudgetError:
    return MemoryBudgetError(message, smallest=smallest)

"""The memory promise: a sum per phase of the run that one can check by hand."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from urst_tiles.errors import InputError

__all__ = ["MemoryEstimate", "MemoryPart", "MemoryPhase", "format_bytes", "parse_bytes", "peak_memory"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One line of the sum."""

    name: str
    # what holds the memory
    bytes: int
    # at most
    reason: str
    # the multiplication behind the number, for people to check


@dataclass(frozen=True, slots=True)
class MemoryPhase:
    """Parts that are held at the same time."""

    name: str
    # "statistics", "shards", "pyramid", "export"
    parts: tuple[MemoryPart, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peak resident memory of the processes of a run, in bytes: the largest phase. Phases follow one another."""

    phases: tuple[MemoryPhase, ...]
    device: MemoryEstimate | None = None
    # the same of a GPU's memory; None where the run is not on one
    pyramid: int = 1
    # shards of the smaller levels that are made at the same time within it

    @property
    def peak(self) -> MemoryPhase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def bytes(self) -> int:
        return self.peak.bytes


def parse_bytes(text: str) -> int:
    """Bytes from "2GiB", "1500 MB", "800M" or a plain number of bytes.

    Raises:
        InputError: it is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if match is None:
        raise InputError(f"{text!r} is not a size in bytes; write it like 2GiB, 1500MB or 800M")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def format_bytes(size: int) -> str:
    """For people, in binary units: "1.21 GiB", "312 MiB"."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    digits = 0 if unit == "bytes" or value >= 100 else 2 if value < 10 else 1
    return f"{value:.{digits}f} {unit}"


def peak_memory() -> int:
    """The most that was resident of this process since it started, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: there a process begins with the peak of the one that started it.
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""What a GPU does while something runs: samples of nvidia-smi's, and what they come to."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

__all__ = ["EVERY", "Sample", "Watch", "parsed", "points", "query", "summary", "thinned"]

EVERY = 200
"""Milliseconds between two samples. What a sample says of the time before it is NVML's: a sixth of a second to one."""

HALF = 50.0
"""Percent of utilisation below which a sample counts as idle."""

_MIB = 2**20
_PATIENCE = 5.0
"""Seconds that nvidia-smi has to end when it is asked to."""
_ZONE = 900.0
"""Seconds that time zones are apart, at least."""

Point = tuple[float, float | None, float | None]
"""(seconds, percent, bytes) for figures and files."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of nvidia-smi's."""

    at: float
    # seconds since the epoch
    utilisation: float | None
    # percent of the time in which a kernel ran; None where the GPU does not say
    memory: int | None
    # bytes of the GPU that are taken, by whatever process


def query(gpu: str = "0") -> tuple[str, ...]:
    """The command; ``gpu`` is a number or a UUID. Lines carry their own time, as they may wait in a buffer."""
    return (
        "nvidia-smi",
        f"--id={gpu}",
        "--query-gpu=timestamp,utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
        f"--loop-ms={EVERY}",
    )


def parsed(line: str) -> Sample | None:
    """A sample from ``2026/01/31 12:00:00.250, 97, 10240``; None of any other line. ``[N/A]`` is no number."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 3:
        return None
    try:
        at = datetime.strptime(fields[0], "%Y/%m/%d %H:%M:%S.%f").timestamp()
    except ValueError:
        return None
    utilisation, memory = (float(field) if field.replace(".", "", 1).isdecimal() else None for field in fields[1:])
    return Sample(at, utilisation, None if memory is None else int(memory * _MIB))


def summary(samples: Sequence[Sample], first: float, last: float) -> dict[str, Any]:
    """Utilisation between two moments, and the memory of all the time."""
    told = [each.utilisation for each in samples if first <= each.at <= last and each.utilisation is not None]
    memory = [each.memory for each in samples if each.memory is not None]
    return {
        "samples": len(told),
        "mean_utilisation": statistics.mean(told) if told else None,
        "share_below_half": sum(each < HALF for each in told) / len(told) if told else None,
        "memory_before_bytes": memory[0] if memory else None,
        "memory_peak_bytes": max(memory, default=None),
    }


def points(samples: Sequence[Sample], start: float) -> list[Point]:
    return [(each.at - start, each.utilisation, each.memory) for each in samples]


def thinned(given: Sequence[Point], most: int) -> list[Point]:
    """As many points at most, each the mean of some neighbours."""
    together = max(1, -(-len(given) // most))
    groups = [given[start : start + together] for start in range(0, len(given), together)]
    return [
        (_mean([at for at, _, _ in g]) or 0.0, _mean([p for _, p, _ in g]), _mean([m for *_, m in g])) for g in groups
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return round(statistics.mean(told), 2) if told else None


class Watch:
    """Samples while the context lasts. The process is ended with it, however it ends.

    Where there is no nvidia-smi, or it says nothing, there are no samples, and ``note`` says why.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = tuple(command or query())
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._other = ""
        self.samples: list[Sample] = []
        self.note: str | None = None

    def __enter__(self) -> Self:
        if shutil.which(self._command[0]) is None:
            self.note = f"there is no {self._command[0]} here: utilisation was not sampled"
            return self
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None or self._thread is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_PATIENCE)
        if not self.samples:
            self.note = f"{self._command[0]} gave no samples: {self._other or 'it said nothing'}"

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        zones: float | None = None
        with process.stdout as lines:
            for line in lines:
                sample = parsed(line)
                if sample is not None:
                    # A container may be in another time zone than what reads the clock for nvidia-smi.
                    zones = _ZONE * round((time.time() - sample.at) / _ZONE) if zones is None else zones
                    self.samples.append(replace(sample, at=sample.at + zones))
                elif line.strip():
                    self._other = line.strip()

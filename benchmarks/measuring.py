"""Numbers from repeated runs: medians and their spread, lines through points, quantiles of errors; processes that are
asked in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from urst_tiles.sources.base import Pixels

__all__ = ["Line", "Spread", "Worker", "alternate", "level_errors", "serve"]

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"  # noqa: RUF001

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope x, by least squares."""

    slope: float
    intercept: float
    residuals: tuple[float, ...]
    # y less the line's

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Self:
        slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
        return cls(slope, intercept, tuple(b - intercept - slope * a for a, b in zip(x, y, strict=True)))

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


def alternate(ways: Mapping[str, Callable[[], Measured]], repetitions: int) -> dict[str, list[Measured]]:
    """Each way's measurements, all ways in turn, after one of each that does not count: what the machine does
    meanwhile meets all of them.
    """
    for measure in ways.values():
        measure()
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, measure in ways.items():
            found[name].append(measure())
    return found


def level_errors(one: Pixels, other: Pixels) -> dict[str, float]:
    """In grey levels of 255, over all values of two pictures."""
    difference = np.abs(one.astype(np.int16) - other)
    return {
        "mean": float(difference.mean()),
        "quantile_0.999": float(np.quantile(difference, 0.999)),
        "largest": float(difference.max()),
    }


class Worker:
    """A process of its own that answers questions one at a time: ``python -m MODULE --child SETTINGS``, whose child
    calls :func:`serve`.
    """

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--child", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        self._errors.close()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Raises RuntimeError with the last line of what the process said where it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"ended with status {self._process.returncode}")
        result: dict[str, Any] = json.loads(answer)
        return result


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the questions on standard input until it ends. What libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=out, flush=True)

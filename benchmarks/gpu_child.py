"""What one process of benchmarks/gpu.py does: it has one method, and runs what it is asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import cycle, islice
from typing import Any, cast

import numpy as np
import torch

from benchmarks import throughput_child
from benchmarks.gpu_frozen import compared
from benchmarks.measuring import level_errors, serve
from benchmarks.reference_way import reference_way
from urst_tiles.allocator import return_freed_memory
from urst_tiles.demo import landscape
from urst_tiles.engines import Engine, TorchEngine, run_whole
from urst_tiles.errors import UrstTilesError
from urst_tiles.sources.base import Pixels

IN_FLIGHT = 4
"""Calls at the same time, as many as a run on a GPU has shards in flight: a batch arrives while another is run."""


class Child(throughput_child.Child):
    """Answers one process's questions about one method; {"error": …} where that cannot be done here."""

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Callable[..., dict[str, Any]]] = {
            "batch": self._batch,
            "alike": self._alike,
            "cpu": self._against_cpu,
            "frozen": self._frozen,
        }
        try:
            if question["what"] in own:
                return own[question.pop("what")](**question)
            return super().answer(question)
        except (RuntimeError, UrstTilesError) as error:
            return {"error": _first_line(error)}

    def _describe(self, engine: str, precision: str) -> dict[str, Any]:
        try:
            return super()._describe(engine, precision)
        except RuntimeError as error:  # of a compiler, say
            return {"missing": _first_line(error)}

    def _reference(self, *, tf32: bool = True) -> dict[str, Any]:
        """All of it on the device, the picture's way there and back included. PyTorch's own choice is TF32."""
        device, side = self._device, self._patch * self._grid
        picture = torch.from_numpy(_pictures(side, 1)).permute(0, 3, 1, 2).float().div_(255)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            started = time.perf_counter()
            reference_way(self._unfrozen, picture.to(device), patch=self._patch).cpu()
        return {"seconds": time.perf_counter() - started}

    def _batch(self, engine: str, precision: str, window: int, batch: int, windows: int) -> dict[str, Any]:
        """Seconds a window, from levels in this process's memory to levels there."""
        return_freed_memory()  # as a run does
        made, given, calls = self._engine(engine, precision), _pictures(window, batch), -(-windows // batch)
        turns = [self._pieces(given) for _ in range(IN_FLIGHT)]
        started = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for _ in pool.map(made.run, islice(cycle(turns), calls)):
                pass
        taken = (time.perf_counter() - started) / (calls * batch)
        return {"seconds": taken, "limit": made.limit if batch > (made.limit or batch) else None}

    def _kept(self, engine: Engine, given: Pixels) -> Pixels:
        """(N, 3, rows, columns)"""
        pieces = self._pieces(given)
        engine.run(pieces)
        return cast("Pixels", np.stack([piece.place for piece in pieces]))

    def _alike(self, engine: str, precision: str, window: int, batch: int) -> dict[str, Any]:
        """A batch against its windows one by one: whether what a window becomes hangs on what it is run with."""
        made, given = self._engine(engine, precision), _pictures(window, batch)
        one_by_one: Any = np.concatenate([self._kept(made, each[None]) for each in given])
        return {**level_errors(self._kept(made, given), one_by_one)}

    def _against_cpu(self) -> dict[str, Any]:
        """Errors of torch in float32 on this device against the CPU's."""
        given = _pictures(throughput_child.ERROR_SIDE, 1)
        cpu: Any = run_whole(TorchEngine(self._network.freeze(self._statistics), device="cpu"), given)
        return {**level_errors(run_whole(self._engine("torch", "float32"), given), cpu)}

    def _frozen(self, precision: str, window: int, batch: int, calls: int, repetitions: int) -> dict[str, Any]:
        network = self._network
        window = max(window // network.stride * network.stride, 2 * network.halo + network.stride)
        frozen = network.freeze(self._statistics).to(self._device)
        given = torch.from_numpy(_pictures(window, batch)).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return {"window": window, "ways": compared(frozen, given, precision, repetitions=repetitions, calls=calls)}

    @property
    def _device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def _pictures(side: int, count: int) -> Pixels:
    """(count, side, side, 3), no two alike."""
    one = landscape(0, 0, side, side, side, side)
    return np.stack([np.roll(one, 31 * number, axis=1) for number in range(count)])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == "__main__":
    serve(Child(json.loads(sys.argv[sys.argv.index("--child") + 1])).answer)

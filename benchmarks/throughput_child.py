"""What one process of benchmarks/throughput.py does: it has one method, and runs what it is asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.driver import OneColour
from benchmarks.engines import engine_of, most_calls, tried
from benchmarks.measuring import level_errors, serve
from benchmarks.reference_way import cached, reference_way
from benchmarks.subjects import subject
from urst_tiles import collect_statistics, plan
from urst_tiles.allocator import return_freed_memory
from urst_tiles.demo import landscape
from urst_tiles.engines import Piece, run_whole
from urst_tiles.geometry import default_window
from urst_tiles.networks import multiply_adds
from urst_tiles.sources.base import Pixels

PLANNED_FOR = 20_000
"""Side in pixels of the raster that a window is planned for."""
LARGER = 2128
"""A side that is tried beside the default and the planned one, in pixels."""
ERROR_SIDE = 512
"""In pixels, of the picture whose errors are measured."""


class Child:
    """Answers one process's questions about one method."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._patch, self._grid, thumbnail = settings["patch"], settings["grid"], settings["thumbnail"]
        folder = settings["weights_dir"]
        self._subject = subject(settings["method"], folder and Path(folder))
        self._network = self._subject.network
        self._statistics = collect_statistics(
            self._network, landscape(0, 0, thumbnail, thumbnail, thumbnail, thumbnail)
        )
        self._engine = cache(self._new_engine)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        what = question.pop("what")
        answers: dict[str, Callable[..., dict[str, Any]]] = {
            "facts": self._facts,
            "engine": self._describe,
            "reference": self._reference,
            "window": self._window,
            "errors": self._errors,
        }
        return answers[what](**question)

    def _facts(self, windows: list[int] | None) -> dict[str, Any]:
        network, side = self._network, self._patch + 64
        default = default_window(network.halo, network.stride)
        planned = plan(OneColour(PLANNED_FOR), network, time_it=False).tiles.window
        wanted = [default, planned, LARGER] if windows is None else windows
        least = 2 * network.halo + network.stride
        sides = sorted({max(window // network.stride * network.stride, least) for window in wanted})
        frozen = network.freeze(self._statistics)
        return {
            "weights": self._subject.weights,
            "halo": network.halo,
            "stride": network.stride,
            "default_window": default,
            "planned_window": planned,
            "threads": torch.get_num_threads(),
            "windows": {
                window: {"kept": (window - 2 * network.halo) ** 2, "flop": 2 * multiply_adds(frozen, window, window)}
                for window in sides
            },
            # The unfrozen network's convolutions are those of its copy with constants for norms.
            "reference_flop": 2 * self._grid**2 * multiply_adds(network.plain, *[_fitting(side, network.stride)] * 2),
        }

    @cached_property
    def _unfrozen(self) -> Any:
        return cached(self._network, self._statistics).to("cuda" if torch.cuda.is_available() else "cpu")

    def _reference(self) -> dict[str, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        picture = torch.from_numpy(_picture(self._patch * self._grid)).permute(2, 0, 1)[None].float().div_(255)
        started = time.perf_counter()
        reference_way(lambda window: self._unfrozen(window.to(device)).cpu(), picture, patch=self._patch)
        return {"seconds": time.perf_counter() - started, "pixels": picture.shape[-1] * picture.shape[-2]}

    def _window(self, engine: str, precision: str, window: int) -> dict[str, Any]:
        return_freed_memory()  # as a run does
        made, calls = self._engine(engine, precision), most_calls(engine)
        pieces = [self._pieces(_picture(window)[None]) for _ in range(calls)]
        started = time.perf_counter()
        with ThreadPoolExecutor(calls) as pool:
            for _ in pool.map(made.run, pieces):
                pass
        return {"seconds": (time.perf_counter() - started) / calls, "engine": made.description}

    def _pieces(self, given: Pixels) -> list[Piece]:
        """As a run has them inside a raster: the halo is cut off."""
        halo, (count, height, width, _) = self._network.halo, given.shape
        kept = (slice(halo, height - halo), slice(halo, width - halo))
        places = np.empty((count, 3, height - 2 * halo, width - 2 * halo), given.dtype)
        return [Piece(window, place, kept, halo) for window, place in zip(given, places, strict=True)]

    def _errors(self, engine: str, precision: str) -> dict[str, Any]:
        picture = _picture(ERROR_SIDE)[None]
        one, other = (
            run_whole(each, picture) for each in (self._engine(engine, precision), self._engine("torch", "float32"))
        )
        return {**level_errors(one, other)}

    def _describe(self, engine: str, precision: str) -> dict[str, Any]:
        side = max(self._network.minimum, self._network.stride)
        return {**tried(lambda: self._engine(engine, precision), side)}

    def _new_engine(self, engine: str, precision: str) -> Any:
        frozen = self._network.freeze(self._statistics)
        return engine_of(engine, frozen, precision=precision, calls=most_calls(engine))


def _fitting(side: int, stride: int) -> int:
    return -(-side // stride) * stride


@cache
def _picture(side: int) -> Any:
    return landscape(0, 0, side, side, side, side)


if __name__ == "__main__":
    serve(Child(json.loads(sys.argv[sys.argv.index("--child") + 1])).answer)

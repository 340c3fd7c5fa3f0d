"""What processors without AVX-512 get, most of those on desks: windows by instructions of AVX2 alone, on a processor
that has both.

    python -m benchmarks.vectors [--methods style johnson …] [--weights-dir FOLDER] [--repetitions 5]

PyTorch and LLVM run the same windows, each with all that the processor has and with AVX2 at most, as many calls at the
same time as runs make, in four processes that take turns. Results go to benchmarks/results/vectors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import save
from benchmarks.measuring import Spread, Worker, alternate, serve
from benchmarks.subjects import SUBJECTS

MODULE = "benchmarks.vectors"
ENGINES = ("torch", "llvm")
LIMITED = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What PyTorch and its oneDNN look at when they first compute."""


class Child:
    """Answers one process's questions about one method, one engine and one kind of vectors."""

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["limited"]:
            os.environ.update(LIMITED)
            _limit_llvm()
        from benchmarks.engines import engine_of, most_calls
        from benchmarks.pipeline import pieces_of
        from benchmarks.subjects import subject
        from urst_tiles.allocator import return_freed_memory
        from urst_tiles.geometry import Window, default_window

        return_freed_memory()  # as a run does
        folder = settings["weights_dir"]
        network = subject(settings["method"], folder and Path(folder)).network
        self._calls = most_calls(settings["engine"])
        self._engine = engine_of(settings["engine"], network.freeze(network.neutral_statistics), calls=self._calls)
        halo, side = network.halo, settings["window"] or default_window(network.halo, network.stride)
        core = side - 2 * halo
        self._pieces = pieces_of(1, side, side, Window(halo, halo, core, core), 0)

    def answer(self, _question: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        with ThreadPoolExecutor(self._calls) as pool:
            list(pool.map(self._engine.run, [self._pieces] * 2 * self._calls))
        seconds = (time.perf_counter() - started) / (2 * self._calls)
        return {"seconds": seconds, "engine": self._engine.description}


def _limit_llvm() -> None:
    """Have llvmlite tell of a processor without AVX-512."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    for name in features:
        if name.startswith(("avx512", "avx10", "amx", "evex")):
            features[name] = False
    binding.get_host_cpu_features = lambda: features
    binding.get_host_cpu_name = lambda: "haswell"


def measured(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    common = {"method": method, "weights_dir": arguments.weights_dir, "window": arguments.window}
    kinds = [(engine, limited) for engine in ENGINES for limited in (False, True)]
    with ExitStack() as stack:
        ways = {
            _name(engine, limited): stack.enter_context(
                Worker(MODULE, {**common, "engine": engine, "limited": limited})
            ).ask
            for engine, limited in kinds
        }
        found = alternate(ways, arguments.repetitions)
    seconds = {name: [answer["seconds"] for answer in answers] for name, answers in found.items()}
    over = {engine: _ratio(seconds[_name(engine, True)], seconds[_name(engine, False)]) for engine in ENGINES}
    gain = _ratio(seconds[_name("torch", True)], seconds[_name("llvm", True)])
    print(
        f"{method}: with AVX2 alone LLVM takes {over['llvm']} of its time, PyTorch {over['torch']}; "
        f"LLVM is then {gain} times as fast as PyTorch",
        flush=True,
    )
    return {
        "method": method,
        "engines": {name: answers[0]["engine"] for name, answers in found.items()},
        "seconds": {name: Spread.of(values).to_json() for name, values in seconds.items()},
        "limited_over_all": {engine: ratio.to_json() for engine, ratio in over.items()},
        "llvm_over_torch_limited": gain.to_json(),
    }


def _name(engine: str, limited: bool) -> str:
    return f"{engine}, AVX2" if limited else engine


def _ratio(one: list[float], other: list[float]) -> Spread:
    return Spread.of(a / b for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["style"], choices=SUBJECTS)
    parser.add_argument("--weights-dir", help="holds the published weights; random ones where it does not")
    parser.add_argument("--window", type=int, help="in pixels; default: a run's")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--name", default="vectors", help="of the result file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(Child(json.loads(arguments.child)).answer)
        return
    print(f"wrote {save(arguments.name, {'methods': [measured(each, arguments) for each in arguments.methods]})}")


if __name__ == "__main__":
    main()

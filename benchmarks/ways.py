"""What two ways to convolve save an LLVM engine: large kernels in parts, and convolutions in groups.

    python -m benchmarks.ways [--methods style johnson msgnet microast] [--window 1064] [--repetitions 5]

The same frozen network runs the same window with these ways and without: large kernels are then computed as they are
defined, and groups by PyTorch. The two take turns; told are seconds on one thread, medians and spread, and the ratio of
each turn. Results go to benchmarks/results/ways.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.common import save
from benchmarks.measuring import Spread, alternate
from benchmarks.subjects import SUBJECTS, subject

_REWRITING = "urst_tiles.engines.llvm.rewriting"
WAYS = ("gains_by_parts", "fills_vectors")
"""What decides where they are taken."""


def engines_of(method: str, folder: Path | None) -> dict[str, Any]:
    """With the ways and without."""
    from urst_tiles import collect_statistics
    from urst_tiles.demo import landscape
    from urst_tiles.engines.llvm_engine import LLVMEngine

    network = subject(method, folder).network
    frozen = network.freeze(collect_statistics(network, landscape(0, 0, 256, 256, 256, 256)))
    with ExitStack() as stack:
        for name in WAYS:
            stack.enter_context(patch(f"{_REWRITING}.{name}", lambda *_: False))
        without = LLVMEngine(frozen)
    return {"with": LLVMEngine(frozen), "without": without}


def seconds(engine: Any, windows: Any) -> float:
    from urst_tiles.engines import run_whole

    started = time.perf_counter()
    run_whole(engine, windows)
    return time.perf_counter() - started


def main() -> None:
    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.demo import landscape

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", choices=SUBJECTS, default=["style", "johnson", "msgnet", "microast"], help="networks"
    )
    parser.add_argument("--window", type=int, default=1064, help="side in pixels")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--weights-dir", type=Path, help="of published weights, a folder a method")
    given = parser.parse_args()
    torch.set_num_threads(1)
    return_freed_memory()  # as a run does
    windows, rows = landscape(0, 0, *[given.window] * 4)[None], []
    for method in given.methods:
        ways: dict[str, Callable[[], float]] = {
            name: partial(seconds, engine, windows) for name, engine in engines_of(method, given.weights_dir).items()
        }
        found = alternate(ways, given.repetitions)
        ratio = Spread.of(one / other for one, other in zip(found["with"], found["without"], strict=True))
        spreads = {name: Spread.of(values) for name, values in found.items()}
        print(f"{method}: {spreads['with']} s with, {spreads['without']} s without: {ratio}", flush=True)
        rows.append({"method": method, "ratio": ratio.to_json(), **{k: v.to_json() for k, v in spreads.items()}})
    print("wrote", save("ways", {"window": given.window, "methods": rows}))


if __name__ == "__main__":
    main()

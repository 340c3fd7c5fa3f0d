"""What pages of 2 MiB save PyTorch: time of a window with and without THP_MEM_ALLOC_ENABLE, which urst_tiles sets.

    python -m benchmarks.huge_pages [--style starry-night] [--repetitions 5]

Each setting is a process of its own, in turn, with freed memory going back to the system as in a run. Results go to
benchmarks/results/huge_pages.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common import in_subprocess, save

MODULE = "benchmarks.huge_pages"
WINDOW = 1064
WINDOWS = 5
"""Run by each process, after one that is not counted."""


def child(style: str) -> dict[str, float]:
    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.engines import TorchEngine, run_whole
    from urst_tiles.memory import peak_memory
    from urst_tiles.styles import load_style

    return_freed_memory()  # as a run does
    network = load_style(style)
    engine = TorchEngine(network.freeze(network.neutral_statistics), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, WINDOW, WINDOW, 3), dtype=np.uint8)
    run_whole(engine, pixels)
    seconds, processor = time.perf_counter(), time.process_time()
    for _ in range(WINDOWS):
        run_whole(engine, pixels)
    return {
        "seconds": (time.perf_counter() - seconds) / WINDOWS,
        "processor_seconds": (time.process_time() - processor) / WINDOWS,
        "peak_bytes": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="starry-night", help="a shipped one")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child)))
        return
    runs: dict[str, list[dict[str, Any]]] = {"0": [], "1": []}
    for _ in range(given.repetitions):
        for setting, found in runs.items():
            with mock.patch.dict(os.environ, {"THP_MEM_ALLOC_ENABLE": setting}):
                found.append(in_subprocess(MODULE, given.style))
    medians = {
        what: {setting: median(run[what] for run in found) for setting, found in runs.items()}
        for what in ("seconds", "processor_seconds", "peak_bytes")
    }
    ratios = {what: both["1"] / both["0"] for what, both in medians.items()}
    print(f"a window of {WINDOW} px without and with: {json.dumps(medians)}; with over without: {json.dumps(ratios)}")
    print("wrote", save("huge_pages", {"style": given.style, "medians": medians, "ratios": ratios, "runs": runs}))


if __name__ == "__main__":
    main()

"""Whether a larger window pays: processor seconds for a kept megapixel, by engine and window.

    python -m benchmarks.windows [--style starry-night] [--windows 1064 1576 2088 3112] [--repetitions 3]

A larger window spends less of itself on the halo, and its maps fit less well into the processor's caches. Windows take
turns; the fastest of each is told, over the pixels of its core. Results go to benchmarks/results/windows.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import save
from urst_tiles.engines import run_whole


def measured(engine: Any, windows: list[int], halo: int, repetitions: int) -> dict[int, float]:
    """Processor seconds a megapixel of core, by window."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, max(windows), max(windows), 3), dtype=np.uint8)
    best: dict[int, float] = {}
    for turn in range(repetitions + 1):
        for window in windows:
            batch = np.ascontiguousarray(pixels[:, :window, :window])
            started = time.process_time()
            run_whole(engine, batch)
            seconds = (time.process_time() - started) / ((window - 2 * halo) ** 2 / 1e6)
            if turn:  # the first one compiles
                best[window] = min(seconds, best.get(window, seconds))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="starry-night", help="a shipped one")
    parser.add_argument("--windows", type=int, nargs="+", default=[1064, 1576, 2088, 3112], help="sides in px")
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()

    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.engines.choosing import make_engine, suitable
    from urst_tiles.styles import load_style

    return_freed_memory()  # as a run does
    network = load_style(given.style)
    frozen, found = network.freeze(network.neutral_statistics), {}
    for name in reversed(suitable("auto", device="cpu")):
        engine = make_engine(frozen, engine=name, device="cpu", precision="float32", device_memory=None)
        seconds = measured(engine, given.windows, network.halo, given.repetitions)
        found[name] = {str(window): round(value, 4) for window, value in seconds.items()}
        told = ", ".join(f"{window} px {value:.3f} s" for window, value in seconds.items())
        print(f"{name}: {told} of the processor a megapixel", flush=True)
    print("wrote", save("windows", {"style": given.style, "processor seconds a megapixel": found}))


if __name__ == "__main__":
    main()

"""What a plan costs, from 10^2 to 10^6 pixels a side: time and memory, apart from importing what it needs.

    python -m benchmarks.plan_scale [--style NAME] [--no-trial]

Each raster is an empty Zarr array that is a few hundred bytes on disk, planned in a process of its own, once for
importing and once for the plan. Prints a table; results go to benchmarks/results/plan_scale.json.

Columns: seconds and resident MiB of the imports (torch, libvips, Zarr, Dask), of loading torch's graph recorder
(torch.export, which is imported when a network is first looked into), and of opening the raster, planning and printing.
Seconds are those of the processor, which other programs do not lengthen; of one thread, because more of them wait for
each other by spinning.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import in_subprocess, save
from urst_tiles.styles import DEFAULT_STYLE

SIDES = (10**2, 10**3, 10**4, 10**5, 10**6)


def child(raster: str, style: str, time_it: str) -> None:
    """Imports, the recorder's import, the plan: each with its processor time and what it adds to the process."""
    found: dict[str, Any] = {}

    def imports() -> None:
        import torch

        import urst_tiles.reports
        import urst_tiles.sources.zarr_store
        import urst_tiles.styles  # noqa: F401

        torch.set_num_threads(1)

    def recorder() -> None:
        import torch
        from torch.export import export

        export(torch.nn.ReLU(), (torch.zeros(1),), strict=False)

    def planned() -> None:
        from urst_tiles.planning import plan
        from urst_tiles.reports import plan_text
        from urst_tiles.styles import load_style

        run_plan = plan(raster, load_style(style), time_it=time_it == "True")
        found.update(
            shards=len(run_plan.tiles),
            windows=run_plan.tiles.tile_count,
            characters=len(plan_text(run_plan)),
        )

    for name, step in (("imports", imports), ("recorder", recorder), ("plan", planned)):
        found[name] = _cost(step)
    print(json.dumps(found))


def _cost(step: Callable[[], None]) -> dict[str, float]:
    """Processor seconds, and MiB that the process's peak grew by from what was resident before."""
    before, started = psutil.Process().memory_info().rss, time.process_time()
    step()
    seconds = time.process_time() - started
    from urst_tiles.memory import peak_memory  # not earlier: this is one of the imports that are measured

    return {"seconds": round(seconds, 3), "mib": round((peak_memory() - before) / 2**20, 1)}


def make_array(path: Path, side: int) -> None:
    import zarr

    zarr.create_array(path, shape=(side, side, 3), chunks=(1024, 1024, 3), dtype="uint8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default=DEFAULT_STYLE, help="a shipped style")
    parser.add_argument("--no-trial", action="store_true", help="do not estimate the time")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="pixels")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    rows = []
    print(f"{'side':>8} {'shards':>7} {'windows':>9}   {'imports':>14} {'recorder':>14} {'plan':>14}")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-plan-") as scratch:
        for side in arguments.sides:
            raster = Path(scratch) / f"{side}.zarr"
            make_array(raster, side)
            row = {
                "side": side,
                **in_subprocess("benchmarks.plan_scale", raster, arguments.style, not arguments.no_trial),
            }
            rows.append(row)
            if "error" in row:
                print(f"{side:>8} {row['error']}")
                continue
            costs = " ".join(
                f"{row[name]['seconds']:5.2f} s {row[name]['mib']:4.0f} M" for name in ("imports", "recorder", "plan")
            )
            print(f"{side:>8} {row['shards']:>7} {row['windows']:>9}   {costs}")
    path = save("plan_scale", {"style": arguments.style, "trial": not arguments.no_trial, "plans": rows})
    print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()

"""Time against pixels: a line through runs of several sizes, how far they are off it, and where it begins.

    python -m benchmarks.time_vs_resolution [--method style] [--sizes 1 4 9 16 36 64 100] [--repetitions 3]
        [--engine torch]

Every run is a process of its own, from a tiled TIFF to an OME-Zarr, the sizes in turn; a size's time is the median of
its runs. The line is by least squares; where it begins is what a run costs whatever its size: planning, the
thumbnail's statistics, the cluster. Importing libraries comes on top and is told too. Results go to
benchmarks/results/time_vs_resolution.json and .png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, in_subprocess, save
from benchmarks.engines import ENGINES, run_options, usual_engine
from benchmarks.measuring import Line, Spread, alternate
from benchmarks.memory import run_tiled, sides
from benchmarks.subjects import SUBJECTS

MODULE = "benchmarks.time_vs_resolution"


def measure(method: str, sizes: list[float], repetitions: int, weights_dir: str | None, engine: str) -> dict[str, Any]:
    from urst_tiles.demo import make_raster

    started_in: list[float] = []
    network = f"method:{method}" + (f"={weights_dir}" if weights_dir else "")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-time-") as scratch:
        rasters = {size: Path(scratch) / f"{size:g}.tif" for size in sizes}
        for size, raster in rasters.items():
            make_raster(raster, *sides(size))
        ways = {str(size): partial(_seconds, raster, network, engine, started_in) for size, raster in rasters.items()}
        seconds = alternate(ways, repetitions)
    return {"method": method, "engine": engine, "start_seconds": Spread.of(started_in).to_json(), **fitted(seconds)}


def _seconds(raster: Path, network: str, engine: str, started_in: list[float]) -> float:
    target = raster.with_suffix(".zarr")
    began = time.perf_counter()
    row = in_subprocess(MODULE, raster, target, network, engine, timeout=6 * 3600)
    if "error" in row:
        raise RuntimeError(row["error"])
    started_in.append(time.perf_counter() - began - row["seconds"])
    shutil.rmtree(target, ignore_errors=True)
    return float(row["seconds"])


def fitted(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The line through the medians; ``seconds``: of each run, by megapixels."""
    sizes = [float(size) for size in seconds]
    spreads = [Spread.of(found) for found in seconds.values()]
    line = Line.through(sizes, [spread.median for spread in spreads])
    return {
        "runs": [
            {"megapixels": size, "seconds": spread.to_json(), "off_the_line": residual / line.at(size)}
            for size, spread, residual in zip(sizes, spreads, line.residuals, strict=True)
        ],
        "seconds_per_megapixel": line.slope,
        "intercept_seconds": line.intercept,
        "largest_residual_of_the_largest_time": max(map(abs, line.residuals)) / max(s.median for s in spreads),
    }


def figure(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing = plt.figure(figsize=(6.4, 4), layout="constrained")
    axes = drawing.subplots()
    sizes = [run["megapixels"] for run in found["runs"]]
    spreads = [Spread(**run["seconds"]) for run in found["runs"]]
    errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.errorbar(sizes, [spread.median for spread in spreads], yerr=errors, fmt="o", capsize=3, label="runs")
    ends = [0.0, max(sizes)]
    start, slope = found["intercept_seconds"], found["seconds_per_megapixel"]
    axes.plot(ends, [start + slope * end for end in ends], "-", label=f"{start:.1f} s + {slope:.2f} s a megapixel")
    axes.set(xlabel="megapixels", ylabel="seconds", title=found["method"])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=SUBJECTS, default="style")
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 4, 9, 16, 36, 64, 100], help="megapixels")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--weights-dir", help="of published weights, a folder a method")
    parser.add_argument("--name", default="time_vs_resolution", help="of the result files")
    parser.add_argument("--engine", choices=ENGINES, default=usual_engine())
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        raster, target, network, engine = arguments.child
        print(json.dumps(run_tiled(raster, target, network, **run_options(engine))))
        return
    found = measure(arguments.method, arguments.sizes, arguments.repetitions, arguments.weights_dir, arguments.engine)
    for run in found["runs"]:
        off = f"{100 * run['off_the_line']:+.1f} % off the line"
        print(f"{run['megapixels']:>8g} MP {Spread(**run['seconds'])!s:>24} s   {off}")
    print(
        f"{found['intercept_seconds']:.2f} s + {found['seconds_per_megapixel']:.3f} s a megapixel; "
        f"the largest residual is {100 * found['largest_residual_of_the_largest_time']:.2f} % of the largest time; "
        f"{Spread(**found['start_seconds'])} s to start and end the process"
    )
    print(f"wrote {save(arguments.name, found)}")
    figure(found, RESULTS / f"{arguments.name}.png")


if __name__ == "__main__":
    main()

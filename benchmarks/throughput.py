"""Megapixels a second of each method beside the paper's own procedure.

    python -m benchmarks.throughput [--methods johnson adain …] [--engines torch …] [--precisions float32 bfloat16]
        [--weights-dir FOLDER] [--windows 2128 …] [--repetitions 5]
    python -m benchmarks.throughput --pipeline [--megapixels 85] [--methods style]

The reference is the paper's procedure in plain PyTorch (benchmarks/reference_way.py): windows of 1064 px with a rim of
32. Ours are windows with the exact halo: of the default side, of the side that the planner takes for a large raster,
and of 2128 px, or those of --windows. Both are counted per pixel that is kept. Reference and ours are two processes,
asked in turn, as each would run by itself; speeds are medians of --repetitions, ratios are taken within each turn.
GFLOP/s count the multiplications and additions of whole windows: ours are fewer, as convolutions after a doubling run
in phases. Engines that leave out what a crop throws away do fewer still.

--weights-dir holds a folder of published weights for each method that there are any of; other methods have random
weights of the published widths, which are as fast. Precisions other than float32, and other engines, come with their
error against torch in float32: grey levels of 255 on a picture of 512 px.

--pipeline compares stylize() on a tiled BigTIFF with its engine alone on windows of the same sizes in memory: the ratio
of the seconds. Results go to benchmarks/results/throughput.json, throughput.png and pipeline.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import pipeline
from benchmarks.common import RESULTS, save
from benchmarks.engines import ENGINES, USUAL
from benchmarks.measuring import Spread, Worker, alternate
from benchmarks.subjects import SUBJECTS

CHILD = "benchmarks.throughput_child"
REFERENCE = "reference"


def measured(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one method."""
    settings = {
        "method": method,
        "weights_dir": arguments.weights_dir,
        "patch": arguments.patch,
        "grid": arguments.grid,
        "thumbnail": arguments.thumbnail,
    }
    with Worker(CHILD, settings) as theirs, Worker(CHILD, settings) as ours:
        facts = ours.ask(what="facts", windows=arguments.windows)
        ways: dict[str, Callable[[], float]] = {REFERENCE: partial(_seconds, theirs, {"what": "reference"})}
        engines = available(ours, method, arguments)
        asked = {
            f"{engine} {precision} {window}": {"engine": engine, "precision": precision, "window": int(window)}
            for engine, precision in engines
            for window in facts["windows"]
        }
        for name, question in asked.items():
            ways[name] = partial(_seconds, ours, {"what": "window", **question})
        seconds = alternate(ways, arguments.repetitions)
        kept = (arguments.patch * arguments.grid) ** 2
        rows = [row(seconds[REFERENCE], seconds[REFERENCE], kept, kept, facts["reference_flop"], way=REFERENCE)]
        for name, question in asked.items():
            size = facts["windows"][str(question["window"])]
            found = row(seconds[name], seconds[REFERENCE], size["kept"], kept, size["flop"], way=name, **question)
            rows.append(found | errors_of(ours, question))
    made = {" ".join(pair): description for pair, description in engines.items()}
    return {"method": method, **facts, "engines": made, "rows": rows}


def available(ours: Worker, method: str, arguments: argparse.Namespace) -> dict[tuple[str, str], str]:
    """Engines and precisions that can be made here, with what they are; says why not, of others."""
    found = {}
    for engine, precision in product(arguments.engines, arguments.precisions):
        answer = ours.ask(what="engine", engine=engine, precision=precision)
        if "missing" in answer:
            print(f"{method}: no {engine} in {precision}: {answer['missing']}", flush=True)
        else:
            found[engine, precision] = answer["engine"]
    return found


def _seconds(worker: Worker, question: dict[str, Any]) -> float:
    return float(worker.ask(**question)["seconds"])


def row(
    seconds: list[float], reference: list[float], kept: int, reference_kept: int, flop: float, **more: Any
) -> dict[str, Any]:
    """Speeds from the seconds of one way and, of the same turns, those of the reference."""
    speeds = [kept / each / 1e6 for each in seconds]
    theirs = [reference_kept / each / 1e6 for each in reference]
    return {
        **more,
        "megapixels_per_second": Spread.of(speeds).to_json(),
        "times_the_reference": Spread.of(a / b for a, b in zip(speeds, theirs, strict=True)).to_json(),
        "gflop_per_second": Spread.of(flop / each / 1e9 for each in seconds).to_json(),
    }


def errors_of(ours: Worker, question: dict[str, Any]) -> dict[str, Any]:
    """Against torch in float32, of anything else."""
    if (question["engine"], question["precision"]) == ("torch", "float32"):
        return {}
    return {"levels_off": ours.ask(what="errors", engine=question["engine"], precision=question["precision"])}


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['method']}: {found['weights']}; halo {found['halo']}, window {found['default_window']}, "
        f"planned {found['planned_window']}; {found['threads']} threads"
    )
    for each in found["rows"]:
        speed, ratio, flop = (
            Spread(**each[key]) for key in ("megapixels_per_second", "times_the_reference", "gflop_per_second")
        )
        off = f"   99.9 % within {each['levels_off']['quantile_0.999']:.3g} levels" if "levels_off" in each else ""
        print(f"  {each['way']:<28} {speed!s:>26} MP/s {ratio!s:>24} x {flop!s:>24} GFLOP/s{off}", flush=True)


def figure(methods: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    bars = [(found["method"], each) for found in methods for each in found["rows"] if each["way"] != REFERENCE]
    drawing = plt.figure(figsize=(7, 1 + 0.3 * len(bars)), layout="constrained")
    axes = drawing.subplots()
    spreads = [Spread(**each["times_the_reference"]) for _, each in bars]
    axes.barh(
        [f"{method}, {each['way']}" for method, each in bars],
        [spread.median for spread in spreads],
        xerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
    )
    axes.axvline(1, color="grey", linestyle=":")
    axes.invert_yaxis()
    axes.set(xlabel="times as fast as the paper's procedure, per pixel kept")
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", choices=SUBJECTS, default=None, help="[default: all; style with --pipeline]"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(USUAL))
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    parser.add_argument("--windows", type=int, nargs="+", help="sides in pixels [default: see above]")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--weights-dir", help="of published weights, a folder a method")
    parser.add_argument("--patch", type=int, default=1000, help="the reference's core, in pixels")
    parser.add_argument("--grid", type=int, default=1, help="the reference's windows along each side")
    parser.add_argument("--thumbnail", type=int, default=256, help="that statistics are of, in pixels")
    parser.add_argument("--pipeline", action="store_true", help="stylize() against its engine alone")
    parser.add_argument("--megapixels", type=float, default=85, help="of the pipeline's raster")
    parser.add_argument("--name", help="of the result files")
    arguments = parser.parse_args()
    if arguments.pipeline:
        pipeline.run(
            arguments.methods or ["style"],
            arguments.engines,
            arguments.megapixels,
            arguments.repetitions,
            arguments.weights_dir,
            arguments.name or "pipeline",
        )
    else:
        found = []
        for method in arguments.methods or SUBJECTS:
            try:
                found.append(measured(method, arguments))
            except RuntimeError as error:
                print(f"{method}: {error}", flush=True)
                continue
            show(found[-1])
        name = arguments.name or "throughput"
        document = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"), "patch": arguments.patch, "methods": found}
        print(f"wrote {save(name, document)}")
        figure(found, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()

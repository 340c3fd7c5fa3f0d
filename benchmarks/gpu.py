"""What is promised of an NVIDIA GPU: speeds beside the paper's own way, CUDA graphs, whole runs up to a gigapixel.

    python -m benchmarks.gpu [--only speed graphs runs] [--methods adain johnson style] [--precisions float32 tf32 …]
        [--engines torch compile] [--sizes 12000x8000 40000x25000] [--window N] [--batch 1 4 8] [--calls 8]
        [--weights-dir FOLDER]

"speed" gives megapixels a second of kept pixels, of windows in this machine's memory, some calls at the same time as
in a run, beside benchmarks/reference_way.py on the same GPU: as PyTorch runs it, which is TF32 where the GPU has it,
and in float32. Errors are grey levels of 255 against torch in float32. "graphs" runs the frozen network by itself, as
it is, as a CUDA graph and otherwise: see benchmarks/gpu_frozen.py. "runs" stylizes a tiled TIFF to an OME-Zarr, one a
process: seconds, peaks, the share of its engine's own speed that it sustains, and how busy nvidia-smi says that the GPU
was between the first and the last windows. The paper tells of 15 s per 100 megapixels for AdaIN on a Titan XP. Rasters
above 4 megapixels are a smaller one again and again, which is quicker to make.

Each part can be a call by itself: what an earlier call of the same --name found on this machine, with these versions
and this commit, stays in the file. Results go to benchmarks/results/gpu.json and gpu.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, in_subprocess, machine, save
from benchmarks.gpu_frozen import CALLS
from benchmarks.gpu_runs import run_line
from benchmarks.gpu_speed import measured_frozen, measured_speed
from benchmarks.gpu_watch import thinned
from benchmarks.memory import make_large
from benchmarks.subjects import SUBJECTS

RUNS = "benchmarks.gpu_runs"
PARTS = ("speed", "graphs", "runs")
PAPER = 15.0
"""Seconds per 100 megapixels that the paper tells of, for AdaIN on a Titan XP."""
LONGEST = 2 * 3600.0
"""Seconds for one run."""
_KEPT = 40
"""Points of a run's utilisation in the file."""


def size(text: str) -> tuple[int, int]:
    """(width, height) from "12000x8000"."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it like 12000x8000")
    return int(width), int(height)


def missing() -> str | None:
    """Why nothing of this can be measured here."""
    if torch.cuda.is_available():
        return None
    return f"benchmarks.gpu needs an NVIDIA GPU: there is no CUDA device that PyTorch {torch.__version__} sees here"


def measured_runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each run; repetitions of the same in turn with the others."""
    with _scratch(arguments.scratch) as scratch:
        for width, height in arguments.sizes:
            raster = scratch / f"{width}x{height}.tif"
            if not raster.exists():
                make_large(raster, width, height)
            turns = product(
                range(arguments.run_repetitions), arguments.methods, arguments.engines, arguments.precisions
            )
            for _, method, engine, precision in turns:
                settings = {
                    "raster": str(raster),
                    "network": f"method:{method}" + (f"={arguments.weights_dir}" if arguments.weights_dir else ""),
                    "engine": engine,
                    "precision": precision,
                    "window": arguments.window,
                    "windows": arguments.alone,
                }
                what = {"method": method, "asked": engine, "precision": precision, "width": width, "height": height}
                try:
                    found = in_subprocess(RUNS, json.dumps(settings), timeout=LONGEST)
                except subprocess.TimeoutExpired:
                    found = {"error": f"it took longer than {LONGEST:.0f} s"}
                shutil.rmtree(raster.with_suffix(".zarr"), ignore_errors=True)
                print(run_line({**what, **found}), flush=True)
                yield {**what, **found}


@contextlib.contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for rasters and results: one that stays, with the rasters for the next call, or one that goes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-gpu-") as made:
        yield Path(made)


def earlier(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """The parts of a file that is of this machine, these versions and this commit."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return {part: found[part] for part in PARTS if part in found} if found.get("machine") == here else {}


def figure(rows: list[dict[str, Any]], path: Path) -> bool:
    """Utilisation over time, a run above the other; none, and False, where it was not sampled."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if any(percent is not None for _, percent, _ in row.get("points", ()))]
    if not shown:
        return False
    drawing = plt.figure(figsize=(7, 0.6 + 1.4 * len(shown)), layout="constrained")
    for axes, row in zip(drawing.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        told = [(at, percent) for at, percent, _ in row["points"] if percent is not None]
        axes.plot([at for at, _ in told], [percent for _, percent in told], linewidth=1)
        for at in row["first_and_last_window"] or ():
            axes.axvline(at, color="grey", linestyle=":")
        said = f"{row['method']}, {row['asked']} {row['precision']}, {row['width']} x {row['height']}"
        axes.set_title(said, fontsize="small", loc="left")
        axes.set(ylim=(0, 105), ylabel="GPU busy, %")
    axes.set(xlabel="seconds; dotted: the first and the last windows")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts [default: all]")
    parser.add_argument("--methods", nargs="+", choices=SUBJECTS, default=["adain", "johnson", "style"])
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["float32", "tf32", "bfloat16", "float16"],
        default=["float32", "tf32", "bfloat16", "float16"],
    )
    parser.add_argument("--engines", nargs="+", choices=["torch", "compile"], default=["torch", "compile"])
    parser.add_argument("--sizes", type=size, nargs="+", default=[(12000, 8000), (40000, 25000)], help="of runs")
    parser.add_argument("--window", type=int, help="side in pixels [default: what a run takes]")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8], help="windows a call; runs choose their own")
    parser.add_argument("--windows", type=int, default=32, help="run in each measurement of speed")
    parser.add_argument("--calls", type=int, default=CALLS, help="of a network in each measurement of graphs")
    parser.add_argument("--alone", type=int, default=512, help="windows of a run that its engine runs alone, about")
    parser.add_argument("--repetitions", type=int, default=3, help="of speed and graphs")
    parser.add_argument("--run-repetitions", type=int, default=1, help="of whole runs")
    parser.add_argument("--weights-dir", help="of published weights, a folder a method")
    parser.add_argument("--patch", type=int, default=1000, help="the reference's core, in pixels")
    parser.add_argument("--grid", type=int, default=3, help="the reference's windows along each side")
    parser.add_argument("--thumbnail", type=int, default=256, help="that statistics of speeds are of, in pixels")
    parser.add_argument("--scratch", type=Path, help="folder for rasters, which stay there [default: one that goes]")
    parser.add_argument("--name", default="gpu", help="of the result files")
    return parser


def keep(document: dict[str, Any], name: str, folder: Path = RESULTS) -> Path:
    """Write what there is so far: a call may be ended before its last part."""
    path = folder / f"{name}.json"
    rows = [{**row, "points": thinned(row.get("points", ()), _KEPT)} for row in document.get("runs", ())]
    found = {**earlier(path, machine()), **document, **({"runs": rows} if rows else {})}
    save(name, {"the paper's seconds per 100 megapixels, AdaIN on a Titan XP": PAPER, **found}, folder)
    figure(document.get("runs", []), path.with_suffix(".png"))
    return path


def main() -> None:
    arguments = _parser().parse_args()
    if (why := missing()) is not None:
        sys.exit(why)
    document: dict[str, Any] = {}
    for part, measure in (("speed", measured_speed), ("graphs", measured_frozen), ("runs", measured_runs)):
        for found in measure(arguments) if part in arguments.only else ():
            document.setdefault(part, []).append(found)
            keep(document, arguments.name)
    print(f"wrote {keep(document, arguments.name)}")


if __name__ == "__main__":
    main()

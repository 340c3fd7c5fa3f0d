"""The paper's Table 1 again: peak memory of each method from 1000 x 1000 to 10000 x 10000 pixels.

    python -m benchmarks.memory_vs_resolution [--methods johnson …] [--sides 1000 2000 …] [--weights-dir FOLDER]
        [--whole-memory 12GiB] [--engine torch]

"Original" is the published network on the whole picture at once, with its own statistics, until it dies: it may take
--whole-memory, of a GPU where there is one. "Ours" is a run from a tiled TIFF to an OME-Zarr. Every number is of a
process of its own: the peak of its resident memory, and of the GPU's where there is one. The largest picture may take
no more than 1.05 times what 2000 x 2000 takes. Results go to benchmarks/results/memory_vs_resolution.json and .png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, in_subprocess, save
from benchmarks.engines import ENGINES, run_options, usual_engine
from benchmarks.memory import run_tiled
from benchmarks.subjects import SUBJECTS
from urst_tiles.memory import parse_bytes

MODULE = "benchmarks.memory_vs_resolution"
SETTLED = 2000
"""Side in pixels of the picture that larger ones are compared with."""
MOST = 1.05
"""Times what that one takes."""
LONGEST = 6 * 3600.0
"""Seconds for one run."""


def run_ours(raster: str, target: str, method: str, engine: str) -> dict[str, Any]:
    return run_tiled(raster, target, method, **run_options(engine))


def run_original(raster: str, most: str, method: str, _engine: str) -> dict[str, Any]:
    """The unfrozen network on the whole picture; it may take ``most`` bytes."""
    import resource

    import torch

    from benchmarks.memory import network_of
    from benchmarks.reference_way import channels_first
    from urst_tiles import Window, open_source
    from urst_tiles.engines.devices import limit_bytes, peak_bytes
    from urst_tiles.memory import peak_memory
    from urst_tiles.networks.padding import extend, round_up

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit_bytes(device, int(most))
    source, network = open_source(raster), network_of(method)
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(most), int(most)))
    module = channels_first(network.module.to(device))
    pixels = source.read(Window(0, 0, source.info.width, source.info.height))
    with torch.inference_mode():
        picture = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float().div_(255)
        del pixels
        height, width = (round_up(side, network.stride) for side in picture.shape[-2:])
        module(extend(picture, height, width))
    return {"peak_bytes": peak_memory(), "device_peak_bytes": peak_bytes(device)}


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.memory import make_large

    found: list[dict[str, Any]] = [{"method": method, "original": [], "ours": []} for method in arguments.methods]
    most = parse_bytes(arguments.whole_memory)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-table1-") as scratch:
        raster, target = Path(scratch) / "raster.tif", Path(scratch) / "out.zarr"
        for side in arguments.sides:
            make_large(raster, side, side)
            for table in found:
                method = f"method:{table['method']}"
                if arguments.weights_dir:
                    method += f"={arguments.weights_dir}"
                ours = in_subprocess(MODULE, "ours", raster, target, method, arguments.engine, timeout=LONGEST)
                table["ours"].append({"side": side, **ours})
                if not any("error" in row for row in table["original"]):
                    original = in_subprocess(MODULE, "original", raster, most, method, "-", timeout=LONGEST)
                    table["original"].append({"side": side, **original})
                shutil.rmtree(target, ignore_errors=True)
                print(line(table["method"], side, table), flush=True)
    for table in found:
        table["largest_over_settled"] = growth(table["ours"])
    return found


def line(method: str, side: int, table: dict[str, Any]) -> str:
    cells = []
    for way in ("original", "ours"):
        row: dict[str, Any] = next((row for row in table[way] if row["side"] == side), {"error": "—"})
        gpu = f" (GPU {row['device_peak_bytes'] / 2**30:.2f})" if row.get("device_peak_bytes") else ""
        cells.append(f"{row['peak_bytes'] / 2**30:6.2f} GiB{gpu}" if "peak_bytes" in row else row["error"][:60])
    return f"{method:<14} {side:>6}²   original {cells[0]:<14} ours {cells[1]}"


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the largest picture takes over what one of 2000 x 2000 takes, on the host and on a GPU."""
    found = {}
    for key in ("peak_bytes", "device_peak_bytes"):
        peaks = {row["side"]: row[key] for row in rows if row.get(key)}
        if SETTLED in peaks and max(peaks) > SETTLED:
            found[key] = peaks[max(peaks)] / peaks[SETTLED]
    return found


def figure(tables: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing = plt.figure(figsize=(6.4, 4), layout="constrained")
    axes = drawing.subplots()
    for index, table in enumerate(tables):
        for way, style in (("original", "o--"), ("ours", "s-")):
            rows = [row for row in table[way] if "peak_bytes" in row]
            axes.plot(
                [row["side"] for row in rows],
                [row["peak_bytes"] / 2**30 for row in rows],
                style,
                color=f"C{index}",
                label=f"{table['method']}, {way}",
            )
    axes.set(xlabel="side of the picture, pixels", ylabel="peak memory, GiB", ylim=(0, None))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=SUBJECTS, default=["johnson"])
    parser.add_argument("--sides", type=int, nargs="+", default=list(range(1000, 11_000, 1000)), help="in pixels")
    parser.add_argument("--whole-memory", default="12GiB", help="what the original may take")
    parser.add_argument("--weights-dir", help="of published weights, a folder a method")
    parser.add_argument("--name", default="memory_vs_resolution", help="of the result files")
    parser.add_argument("--engine", choices=ENGINES, default=usual_engine(), help="of ours")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, *words = arguments.child
        print(json.dumps({"original": run_original, "ours": run_ours}[way](*words)))
        return
    tables = measure(arguments)
    for table in tables:
        for key, times in table["largest_over_settled"].items():
            said = "" if times <= MOST else f"   more than {MOST}"
            print(f"{table['method']}, {key}: the largest takes {times:.3f} x what {SETTLED}² takes{said}")
    document = {"original may take": arguments.whole_memory, "engine": arguments.engine, "methods": tables}
    print(f"wrote {save(arguments.name, document)}")
    figure(tables, RESULTS / f"{arguments.name}.png")


if __name__ == "__main__":
    main()

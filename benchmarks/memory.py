"""Peak memory against megapixels: this program's beside the plan's estimate, and the whole image at once.

    python -m benchmarks.memory [--sizes 1 4 16 64 256] [--weights FILE] [--raster FILE]

Every run is a process of its own and reports its own peak resident memory. Results go to
benchmarks/results/memory.json and .png. With --raster one raster of yours is stylized instead, and its peak printed
beside the plan's estimate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, in_subprocess, save

MODULE = "benchmarks.memory"
WHOLE_LIMIT = 16
"""Megapixels beyond which the whole-image run is not tried: it needs about 400 bytes a pixel at width 8, 1,500 at
width 32."""


def network_of(weights: str) -> Any:
    from urst_tiles import load_network
    from urst_tiles.networks.untrained import untrained

    return untrained(width=8, seed=1) if weights == "-" else load_network("johnson", weights)


def run_tiled(raster: str, target: str, weights: str) -> dict[str, Any]:
    """Stylize and report."""
    from urst_tiles import stylize

    report = stylize(raster, target, network=network_of(weights), overwrite=True)
    return {
        "megapixels": report.width * report.height / 1e6,
        "peak_bytes": report.peak_memory,
        "estimate_bytes": report.memory_estimate,
        "seconds": report.seconds,
        "megapixels_per_second": report.megapixels_per_second,
        "engine": report.engine,
    }


def run_whole(raster: str, weights: str) -> dict[str, Any]:
    """The frozen network over the whole image at once, statistics from the thumbnail as in the tiled run."""
    import numpy as np

    from urst_tiles import Window, collect_statistics, open_source
    from urst_tiles.engines import TorchEngine
    from urst_tiles.stylizing import peak_memory

    source, network = open_source(raster), network_of(weights)
    frozen = network.freeze(collect_statistics(network, source.thumbnail(1024)[..., :3]))
    info = source.info
    pixels: Any = np.ascontiguousarray(source.read(Window(0, 0, info.width, info.height))[..., :3])
    TorchEngine(frozen).run(pixels[None])
    return {"megapixels": info.pixels / 1e6, "peak_bytes": peak_memory()}


def child(words: list[str]) -> None:
    what, raster, target, weights = words
    print(json.dumps(run_tiled(raster, target, weights) if what == "tiled" else run_whole(raster, weights)))


def measure(sizes: list[float], weights: str) -> dict[str, Any]:
    from urst_tiles.demo import make_raster

    tiled, whole = [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-memory-") as scratch:
        for size in sizes:
            height = round((size * 1e6 / 1.5) ** 0.5)
            raster = Path(scratch) / "raster.tif"
            make_raster(raster, round(height * 1.5), height)
            tiled.append(in_subprocess(MODULE, "tiled", raster, Path(scratch) / "out.zarr", weights))
            print("tiled", json.dumps(tiled[-1]))
            if size <= WHOLE_LIMIT:
                whole.append(in_subprocess(MODULE, "whole", raster, "-", weights))
                print("whole", json.dumps(whole[-1]))
    return {
        "network": "johnson width 8, random weights" if weights == "-" else Path(weights).name,
        "tiled": tiled,
        "whole": whole,
    }


def figure(document: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing = plt.figure(figsize=(6.4, 4))
    axes = drawing.subplots()
    for name, key, style in (
        ("whole image", "whole", "o-"),
        ("tiled", "tiled", "s-"),
    ):
        rows = [row for row in document[key] if "peak_bytes" in row]
        axes.plot([row["megapixels"] for row in rows], [row["peak_bytes"] / 2**30 for row in rows], style, label=name)
    rows = document["tiled"]
    axes.plot(
        [row["megapixels"] for row in rows],
        [row["estimate_bytes"] / 2**30 for row in rows],
        "k:",
        label="plan's estimate",
    )
    axes.set(xlabel="megapixels", ylabel="peak memory, GiB", xscale="log", yscale="log", title=document["network"])
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    drawing.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 4, 16, 64, 256], help="megapixels")
    parser.add_argument("--weights", default="-", help="a johnson weights file [default: width 8, random]")
    parser.add_argument("--raster", help="measure this raster instead")
    parser.add_argument("--name", default="memory", help="of the result files")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
    elif arguments.raster:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-memory-") as scratch:
            row = in_subprocess(MODULE, "tiled", arguments.raster, Path(scratch) / "out.zarr", arguments.weights)
        print(json.dumps(row, indent=2))
        save(
            arguments.name,
            {"raster": Path(arguments.raster).name, "weights": Path(arguments.weights).name, "tiled": [row]},
        )
    else:
        document = measure(arguments.sizes, arguments.weights)
        print(f"wrote {save(arguments.name, document)}")
        figure(document, RESULTS / f"{arguments.name}.png")


if __name__ == "__main__":
    main()

"""Peak memory against megapixels, up to ten gigapixels: this program's beside the plan's estimate, and the whole image
at once until it dies.

    python -m benchmarks.memory [--sizes 1 4 16 85 256 1000] [--identity 85 1000 10000] [--weights FILE]
    python -m benchmarks.memory --raster FILE [--weights FILE]

Every run is a process of its own and reports its own peak resident memory. --sizes run a network over a tiled TIFF;
--identity runs the identity over a Zarr array none of whose chunks is stored, so that only the pipeline's own memory
is left. The whole image may take --whole-memory and no more. The slope of each curve is that of the peak from 85
megapixels on, by least squares. Results go to benchmarks/results/memory.json and .png. With --raster one raster of
yours is stylized instead, and its peak printed beside the plan's estimate.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, in_subprocess, save
from urst_tiles.memory import parse_bytes

MODULE = "benchmarks.memory"
_PART = (2560, 1536)
"""Width and height in pixels of what large rasters are made of: whole tiles."""
SETTLED = 85
"""Megapixels from which on a run has all it ever holds: two shards in flight, windows of full size."""


def network_of(weights: str) -> Any:
    """ "identity"; "method:NAME" or "method:NAME=FOLDER", see benchmarks/subjects.py; "-"; or a johnson file."""
    from urst_tiles import load_network

    if weights.startswith("method:"):
        from benchmarks.subjects import subject

        name, _, folder = weights.removeprefix("method:").partition("=")
        return subject(name, Path(folder) if folder else None).network
    if weights == "identity":
        return load_network("identity")
    from urst_tiles.networks.untrained import untrained

    return untrained(width=8, seed=1) if weights == "-" else load_network("johnson", weights)


def named(weights: str) -> str:
    """What :func:`network_of` gives, in a few words."""
    if weights.startswith("method:"):
        from benchmarks.subjects import subject

        name, _, folder = weights.removeprefix("method:").partition("=")
        return f"{name}, {subject(name, Path(folder) if folder else None).weights}"
    return "johnson width 8, random weights" if weights == "-" else Path(weights).name


def run_tiled(raster: str, target: str, weights: str, **options: Any) -> dict[str, Any]:
    """Stylize and report. ``options``: as for stylize()."""
    from urst_tiles import stylize

    report = stylize(raster, target, network=network_of(weights), overwrite=True, **options)
    return {
        "peak_bytes": report.peak_memory,
        "estimate_bytes": report.memory_estimate,
        "device_peak_bytes": report.device_peak,
        "seconds": report.seconds,
        "megapixels_per_second": report.megapixels_per_second,
        "engine": report.engine,
    }


def run_whole(raster: str, most: str, weights: str) -> dict[str, Any]:
    """The frozen network over the whole image at once, statistics from the thumbnail as in the tiled run; it may take
    ``most`` bytes."""
    import resource

    import numpy as np

    resource.setrlimit(resource.RLIMIT_DATA, (int(most), int(most)))

    from urst_tiles import Window, collect_statistics, open_source
    from urst_tiles.engines import TorchEngine, run_whole
    from urst_tiles.memory import peak_memory

    source, network = open_source(raster), network_of(weights)
    frozen = network.freeze(collect_statistics(network, source.thumbnail(1024)[..., :3]))
    info = source.info
    pixels: Any = np.ascontiguousarray(source.read(Window(0, 0, info.width, info.height))[..., :3])
    run_whole(TorchEngine(frozen), pixels[None])
    return {"peak_bytes": peak_memory()}


def child(words: list[str]) -> None:
    what, raster, target, weights, engine = words
    found = run_tiled(raster, target, weights, engine=engine) if what == "tiled" else run_whole(raster, target, weights)
    print(json.dumps(found))


def measure(sizes: list[float], identity: list[float], weights: str, most: int, engine: str) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"tiled": [], "whole": [], "identity": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-memory-") as scratch:
        raster, target = Path(scratch) / "raster.tif", Path(scratch) / "out.zarr"
        for size in sizes:
            make_large(raster, *sides(size))
            add(found["tiled"], size, "tiled", raster, target, weights, engine)
            if not any("error" in row for row in found["whole"]):
                add(found["whole"], size, "whole", raster, most, weights, engine)
        raster.unlink(missing_ok=True)
        for size in identity:
            shutil.rmtree(target, ignore_errors=True)
            source = unwritten(Path(scratch) / f"{size}.zarr", size)
            add(found["identity"], size, "tiled", source, target, "identity", "torch")
    return {
        "network": named(weights),
        "engine": engine,
        "whole image may take": most,
        "slope, bytes a pixel": {name: slope(rows) for name, rows in found.items()},
        "peak of the largest over that of 85 megapixels": {
            name: growth(found[name]) for name in ("tiled", "identity") if len(found[name]) > 1
        },
        **found,
    }


def add(rows: list[dict[str, Any]], size: float, *words: object) -> None:
    rows.append({"megapixels": size, **in_subprocess(MODULE, *words)})
    print(words[0], Path(str(words[3])).name, json.dumps(rows[-1]), flush=True)


def sides(megapixels: float) -> tuple[int, int]:
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    return round(height * 1.5), height


def make_large(path: Path, width: int, height: int) -> None:
    """A tiled TIFF; above 4 megapixels the tiles of one of those again and again, as they are compressed, which is
    quicker to make."""
    import numpy as np
    import tifffile

    from urst_tiles.demo import make_raster

    if width * height <= _PART[0] * _PART[1]:
        make_raster(path, width, height)
        return
    part = path.with_suffix(".part.tif")
    make_raster(part, *_PART)
    with tifffile.TiffFile(part) as file:
        page = file.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        tile, predictor = page.tilelength, page.predictor
        once = [file.filehandle.read(count) for at, count in places if file.filehandle.seek(at) == at]
    across, down = (side // tile for side in _PART)
    tifffile.imwrite(
        path,
        (
            once[row % down * across + col % across]
            for row in range(-(-height // tile))
            for col in range(-(-width // tile))
        ),
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="rgb",
        compression="deflate",
        predictor=predictor,
        bigtiff=True,
        metadata=None,
    )
    part.unlink()


def unwritten(path: Path, megapixels: float) -> Path:
    """A Zarr array of that size of which nothing is stored: it reads as zeros."""
    import zarr

    width, height = sides(megapixels)
    zarr.create_array(path, shape=(height, width, 3), chunks=(1024, 1024, 3), dtype="uint8", fill_value=0)
    return path


def settled(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [
        (1e6 * row["megapixels"], row["peak_bytes"])
        for row in rows
        if row["megapixels"] >= SETTLED and "peak_bytes" in row
    ]


def slope(rows: list[dict[str, Any]]) -> float | None:
    """Bytes a pixel; of a curve that ends before it settles, over all there is."""
    import numpy as np

    points = settled(rows)
    if len(points) < 2:
        points = [(1e6 * row["megapixels"], row["peak_bytes"]) for row in rows if "peak_bytes" in row]
    pixels, peaks = np.array(points).reshape(-1, 2).T
    return float(np.polyfit(pixels, peaks, 1)[0]) if len(points) > 1 else None


def growth(rows: list[dict[str, Any]]) -> float | None:
    points = settled(rows)
    return points[-1][1] / points[0][1] if len(points) > 1 else None


def figure(document: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    drawing = plt.figure(figsize=(6.4, 4))
    axes = drawing.subplots()
    for name, key, style in (
        ("whole image", "whole", "o-"),
        ("tiled", "tiled", "s-"),
        ("tiled, identity network", "identity", "^-"),
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
    for axis, ticks in ((axes.xaxis, (1, 10, 100, 1000, 10_000)), (axes.yaxis, (0.5, 1, 2, 4, 8))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    drawing.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 4, 16, 85, 256, 1000], help="megapixels")
    parser.add_argument("--identity", type=float, nargs="*", default=[85, 1000, 10_000], help="megapixels")
    parser.add_argument("--whole-memory", default="12GiB", help="what the whole-image run may take")
    parser.add_argument(
        "--weights",
        default="-",
        help="a johnson weights file, method:style for the shipped one, method:NAME=FOLDER [default: width 8, random]",
    )
    parser.add_argument("--engine", default="torch", help="one for all sizes: each takes memory of its own")
    parser.add_argument("--raster", help="measure this raster instead")
    parser.add_argument("--name", default="memory", help="of the result files")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
    elif arguments.raster:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-memory-") as scratch:
            row = in_subprocess(
                MODULE, "tiled", arguments.raster, Path(scratch) / "out.zarr", arguments.weights, arguments.engine
            )
        print(json.dumps(row, indent=2))
        save(
            arguments.name,
            {"raster": Path(arguments.raster).name, "weights": Path(arguments.weights).name, "tiled": [row]},
        )
    else:
        document = measure(
            arguments.sizes,
            arguments.identity,
            arguments.weights,
            parse_bytes(arguments.whole_memory),
            arguments.engine,
        )
        print(f"wrote {save(arguments.name, document)}")
        figure(document, RESULTS / f"{arguments.name}.png")


if __name__ == "__main__":
    main()

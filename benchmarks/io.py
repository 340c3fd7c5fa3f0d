"""What a run reads, writes and copies: the identity network's rate beside other copiers', bytes and pixels read and
written beside those there are, and the pyramid's share of a run.

    python -m benchmarks.io [--megapixels 200] [--repetitions 3] [--style-megapixels 85]

The raster is a tiled BigTIFF (deflate, predictor, tiles of 512 px). Each copy is a process of its own, in turn:

* pipeline to zarr, pipeline to tif: stylize() with the identity network, pyramid included;
* vips copy: the raster to the same tiles and compression, by libvips; and the same with a pyramid;
* zarr copy: the full size of the first one's result to an array of the same shards, chunks and codec, by zarr.

Amplification is of one such run, and of one with the shipped style, whose windows have a halo: pixels asked of the
source while shards are made over the raster's, bytes read from its file for them over the file's, bytes written over
those of the levels they are of. Bytes are those of read and write calls, as the kernel counts them. The thumbnail is
counted apart: a raster without a pyramid is read whole for it. Results go to benchmarks/results/io.json.
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

from benchmarks.common import in_subprocess, save
from benchmarks.counting import CountedSource, Phases, level_bytes, process_bytes
from benchmarks.measuring import Spread, alternate

MODULE = "benchmarks.io"
MOST_READ, MOST_WRITTEN, MOST_PYRAMID = 1.2, 1.01, 0.15
"""What is wanted: times the raster's pixels, times the store's bytes, of the run's time."""
TILE = 512


def run_pipeline(raster: str, target: str, network: str) -> dict[str, Any]:
    """stylize() with the "identity" or the shipped style, everything counted."""
    import numpy as np

    from urst_tiles import load_network, open_source, stylize
    from urst_tiles.styles import DEFAULT_STYLE, load_style

    with tempfile.TemporaryDirectory() as warm:  # what is imported late is no part of a copy
        little = np.zeros((8, 8, 3), np.uint8)
        stylize(little, Path(warm) / Path(target).name, network=load_network("identity"))
    source, phases = CountedSource(open_source(raster)), Phases()
    chosen = load_network("identity") if network == "identity" else load_style(DEFAULT_STYLE)
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    report = stylize(source, target, network=chosen, callbacks=(phases,), overwrite=True)
    seconds = time.perf_counter() - started
    phases.end()
    found: dict[str, Any] = {
        "seconds": seconds,
        "window": report.window,
        "halo": report.halo,
        "pixels_read_of_raster": source.pixels_read / source.info.pixels,
        "tiles_touched_of_raster": source.tiles_touched / source.tiles,
        "phases": phases.to_json(),
        "pyramid_of_run": phases.seconds("pyramid") / seconds,
    }
    found["bytes_read_of_file"] = source.bytes_read / Path(raster).stat().st_size
    if Path(target).is_dir():
        full, smaller = level_bytes(Path(target))
        found["bytes_written_of_full_size"] = phases.bytes_written("shards") / full
        found["bytes_written_of_pyramid"] = phases.bytes_written("pyramid") / smaller if smaller else None
        found["bytes_written_of_store"] = (phases.bytes_written("shards") + phases.bytes_written("pyramid")) / (
            full + smaller
        )
    return found


def run_vips(raster: str, target: str, pyramid: str) -> dict[str, Any]:
    import pyvips

    started = time.perf_counter()
    pyvips.Image.new_from_file(raster, access="sequential").tiffsave(
        target,
        tile=True,
        tile_width=TILE,
        tile_height=TILE,
        compression="deflate",
        predictor="horizontal",
        bigtiff=True,
        pyramid=pyramid == "pyramid",
        subifd=pyramid == "pyramid",
    )
    return {"seconds": time.perf_counter() - started}


def run_zarr(source: str, target: str, _: str) -> dict[str, Any]:
    """The full size of a result, shard by shard, by zarr."""
    import zarr

    from urst_tiles.stores import OmeZarrStore
    from urst_tiles.stores.encoding import array_options

    layout = OmeZarrStore.open(source).layout
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    given: Any = zarr.open_array(f"{source}/0", mode="r")
    made = zarr.create_array(target, shape=given.shape, **array_options(layout))
    width, height = layout.shard
    for row in range(0, layout.height, height):
        for col in range(0, layout.width, width):
            made[:, row : row + height, col : col + width] = given[:, row : row + height, col : col + width]
    return {"seconds": time.perf_counter() - started}


RUNS = {"pipeline": run_pipeline, "vips": run_vips, "zarr": run_zarr}


def child(words: list[str]) -> None:
    what, *rest = words
    before = process_bytes()
    found = RUNS[what](*rest)
    read, written = (after - then for then, after in zip(before, process_bytes(), strict=True))
    print(json.dumps({**found, "read": read, "written": written}))


def measure(megapixels: float, style_megapixels: float, repetitions: int) -> dict[str, Any]:
    from benchmarks.memory import sides
    from urst_tiles.demo import make_raster

    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-io-") as scratch:
        raster, folder = Path(scratch) / "raster.tif", Path(scratch)
        width, height = sides(megapixels)
        make_raster(raster, width, height)
        ways = {
            "pipeline to zarr": ("pipeline", raster, folder / "result.zarr", "identity"),
            "pipeline to tif": ("pipeline", raster, folder / "result.tif", "identity"),
            "vips copy": ("vips", raster, folder / "vips.tif", "plain"),
            "vips copy with a pyramid": ("vips", raster, folder / "vips.tif", "pyramid"),
            "zarr copy": ("zarr", folder / "result.zarr", folder / "copy.zarr", "-"),
        }
        rates = alternate(
            {name: partial(_rate, name, words, width * height, rows) for name, words in ways.items()}, repetitions
        )
        bytes_of_raster = raster.stat().st_size
        make_raster(raster, *sides(style_megapixels))
        style = in_subprocess(MODULE, "pipeline", raster, folder / "result.zarr", "style", timeout=6 * 3600)
    if "error" in style:
        raise RuntimeError(style["error"])
    return {
        "megapixels": megapixels,
        "raster_bytes": bytes_of_raster,
        "copies": {
            name: {
                "megapixels_per_second": Spread.of(found).to_json(),
                "pipeline_to_zarr_over_it": Spread.of(
                    ours / each for ours, each in zip(rates["pipeline to zarr"], found, strict=True)
                ).to_json(),
                "bytes_read": rows[name]["read"],
                "bytes_written": rows[name]["written"],
            }
            for name, found in rates.items()
        },
        "identity": rows["pipeline to zarr"],
        "style": {"megapixels": style_megapixels, **style},
    }


def _rate(name: str, words: tuple[object, ...], pixels: int, rows: dict[str, dict[str, Any]]) -> float:
    """Megapixels a second of one copy; its other numbers go to ``rows``."""
    rows[name] = in_subprocess(MODULE, *words)
    if "error" in rows[name]:
        raise RuntimeError(f"{name}: {rows[name]['error']}")
    return float(pixels / rows[name]["seconds"] / 1e6)


def show(found: dict[str, Any]) -> None:
    for name, copy in found["copies"].items():
        rate, ours = Spread(**copy["megapixels_per_second"]), Spread(**copy["pipeline_to_zarr_over_it"])
        print(f"{name:<26} {rate!s:>24} MP/s   pipeline to zarr is {ours} x as fast")
    for name in ("identity", "style"):
        run = found[name]
        print(f"{name}, window {run['window']}, halo {run['halo']}:")
        for key, most in (
            ("pixels_read_of_raster", MOST_READ),
            ("tiles_touched_of_raster", None),
            ("bytes_read_of_file", MOST_READ),
            ("bytes_written_of_full_size", MOST_WRITTEN),
            ("bytes_written_of_pyramid", MOST_WRITTEN),
            ("pyramid_of_run", MOST_PYRAMID if name == "style" else None),
        ):
            value = run.get(key)
            said = f"   more than {most}" if value is not None and most is not None and value > most else ""
            print(f"  {key.replace('_', ' '):<28} {'—' if value is None else f'{value:.4f}'}{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=200, help="of the raster that is copied")
    parser.add_argument("--style-megapixels", type=float, default=85, help="of the raster that is stylized")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--name", default="io", help="of the result file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    found = measure(arguments.megapixels, arguments.style_megapixels, arguments.repetitions)
    show(found)
    print(f"wrote {save(arguments.name, found)}")


if __name__ == "__main__":
    main()

"""The plan's memory estimate against the measured peak, over methods, windows, batches, types, formats and sizes.

    python -m benchmarks.memory_matrix [--only TEXT] [--largest MEGAPIXELS]

Every case is a run in a process of its own, with random weights; its peak is that of the whole process since it
started. Prints a table; results go to benchmarks/results/memory_matrix.json. The estimate is to be at least the peak
and at most 1.5 times as much; tests/test_memory_matrix.py holds some of the cases to it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common import in_subprocess, save
from benchmarks.workers import TreeMemory

MODULE = "benchmarks.memory_matrix"
LOOSEST = 1.5
"""Times the peak."""


@dataclass(frozen=True)
class Case:
    """One run."""

    network: str
    # see network_of
    window: int = 512
    batch: int = 1
    dtype: str = "uint8"
    source: str = "tif"
    # suffix: tif (tiled), png (decoded from the top), zarr
    target: str = "zarr"
    # suffix, or s3: a store in a bucket of a server in another process, which needs moto
    megapixels: float = 1.0
    thumbnail: int = 1024
    engine: str = "torch"
    workers: int = 0
    # processes, whose memory counts; 0: none but the driver's

    def __str__(self) -> str:
        engine = "" if self.engine == "torch" else f"{self.engine} "
        what = f"{engine}{self.network} {self.window}x{self.batch} {self.dtype}"
        workers = f" {self.workers} workers" if self.workers else ""
        return f"{what} {self.source}→{self.target} {self.megapixels:g}MP{workers}"


CASES = (
    Case("johnson8"),
    Case("johnson8", source="png"),
    Case("johnson8", source="zarr", target="tif"),
    Case("johnson8", dtype="uint16", batch=4),
    Case("johnson32", batch=4),
    Case("wct"),
    Case("microast"),
    Case("multimodal"),
    Case("johnson8", window=1064, megapixels=16),
    Case("johnson8", window=1064, dtype="uint16", source="png", target="tif", megapixels=16),
    Case("johnson8", window=1064, source="zarr", batch=4, megapixels=16),
    Case("johnson8", dtype="uint16", target="tif", megapixels=16),
    Case("johnson32", window=1064),
    Case("wct", window=1064, dtype="uint16", source="zarr"),
    Case("wct", megapixels=16),
    Case("microast", window=1064, batch=4, target="tif", megapixels=16),
    Case("multimodal", window=1064, batch=4, source="png", megapixels=4),
    Case("johnson8", target="s3"),
    Case("johnson8", window=1064, dtype="uint16", target="s3", megapixels=16),
    Case("johnson8", workers=1),
    Case("johnson8", source="png", workers=1, megapixels=16),
    Case("johnson32", window=1064, workers=2, megapixels=16),
    Case("johnson8", window=1064, engine="openvino", dtype="uint16", workers=2, megapixels=16),
    Case("styled", window=256, thumbnail=64),
    Case("recoloured", window=256, thumbnail=64),
    Case("johnson8", engine="openvino", dtype="uint16", batch=4),
    Case("johnson32", engine="openvino", window=1064),
    Case("johnson8", engine="openvino", window=1064, target="tif", megapixels=16),
    Case("wct", engine="openvino", source="zarr"),
    Case("microast", engine="openvino", window=1064, dtype="uint16", batch=4),
    Case("multimodal", engine="openvino", batch=4, source="png", megapixels=4),
    Case("johnson8", engine="llvm", dtype="uint16", batch=4),
    Case("johnson32", engine="llvm", window=1064),
    Case("johnson8", engine="llvm", window=1064, target="tif", megapixels=16),
    Case("wct", engine="llvm", source="zarr"),
    Case("microast", engine="llvm", window=1064, dtype="uint16", batch=4),
    Case("multimodal", engine="llvm", batch=4, source="png", megapixels=4),
    Case("johnson32", engine="llvm", window=1064, dtype="uint16", workers=2, megapixels=16),
)
"""Each value of each setting with several of the others; not every combination."""


def network_of(name: str) -> Any:
    """johnson and its width; a cascade of two whitenings, of 64 and 32 channels; one whitening with a style image so
    large that encoding it takes most, once or again in the raster's colours; or a narrow network of a method.
    """
    from urst_tiles.networks import sample_network
    from urst_tiles.networks.styling import StyleImage, Styling
    from urst_tiles.networks.untrained import untrained
    from urst_tiles.networks.wct import random_levels, wct_network

    if name.startswith("johnson"):
        return untrained(width=int(name.removeprefix("johnson")), seed=1)
    if name == "wct":
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        return wct_network(random_levels(0, levels=(3, 2), width=32), Styling((StyleImage(noise, 1.0),)))
    if name in ("styled", "recoloured"):
        noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
        state, styling = random_levels(0, levels=(2,), width=32), Styling((StyleImage(noise, 1.0),))
        network = wct_network(state, styling)
        if name == "recoloured":
            network.recolour_with(lambda content: wct_network(state, styling.recoloured(content)))
        return network
    return sample_network(name)


def make_raster(path: Path, case: Case) -> None:
    """Noise on waves, 3:2."""
    height = round((case.megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    noise = np.random.default_rng(0).random((height, width, 1), dtype=np.float32)
    waves = 0.5 + 0.3 * np.sin(x / 40)[..., None] * np.cos(y / 60)[..., None] * np.array([1, -0.6, 0.4], np.float32)
    pixels = ((waves + 0.15 * noise).clip(0, 1) * np.iinfo(case.dtype).max).astype(case.dtype)
    if case.source == "zarr":
        import zarr

        zarr.create_array(path, data=pixels, chunks=(512, 512, 3))
    elif case.source == "png":
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(pixels, level=1))
    else:
        import tifffile

        tifffile.imwrite(path, pixels, tile=(256, 256), compression="deflate", photometric="rgb", metadata=None)


def child(case: Case, raster: str, target: str) -> dict[str, Any]:
    from urst_tiles import plan, stylize

    options: dict[str, Any] = {"window": case.window, "batch": case.batch, "thumbnail": case.thumbnail, "device": "cpu"}
    options["engine"] = case.engine
    options["workers"] = case.workers or None
    network = network_of(case.network)
    parts = plan(raster, network, target=target, time_it=False, **options).memory
    with TreeMemory() as memory:
        report = stylize(raster, target, network=network, **options)
    # What the report says with workers is a bound: here it is all processes at one moment.
    peak = memory.peak if case.workers else report.peak_memory
    return {
        "peak": peak,
        "reported": report.peak_memory,
        "estimate": report.memory_estimate,
        "phase": parts.peak.name,
        "parts": {part.name: part.bytes for part in parts.peak.parts},
        "seconds": report.seconds,
    }


def measured(case: Case) -> dict[str, Any]:
    """What the case's process reports."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-matrix-") as scratch:
        raster = Path(scratch) / f"in.{case.source}"
        make_raster(raster, case)
        with _target(case, Path(scratch)) as target:
            return in_subprocess(MODULE, json.dumps(dataclasses.asdict(case)), raster, target)


@contextlib.contextmanager
def _target(case: Case, folder: Path) -> Iterator[str]:
    if case.target != "s3":
        yield str(folder / f"out.{case.target}")
        return
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with mock.patch.dict(os.environ, settings):
        fsspec.filesystem("s3", skip_instance_cache=True).makedirs("bucket", exist_ok=True)
        yield f"s3://bucket/{folder.name}/out.zarr"  # the server's memory is this process's, and outlives it
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose line in the table holds this text")
    parser.add_argument("--largest", type=float, default=16, help="leave larger rasters out, in megapixels")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        settings, raster, target = arguments.child
        print(json.dumps(child(Case(**json.loads(settings)), raster, target)))
        return
    rows = []
    for case in CASES:
        if arguments.only not in str(case) or case.megapixels > arguments.largest:
            continue
        row = measured(case)
        rows.append({"case": dataclasses.asdict(case), **row})
        if "error" in row:
            print(f"{case!s:<44} {row['error']}", flush=True)
            continue
        times = row["estimate"] / row["peak"]
        said = "" if 1 <= times <= LOOSEST else "  ← outside"
        mib = {name: round(size / 2**20) for name, size in row["parts"].items()}
        print(
            f"{case!s:<44} peak {row['peak'] >> 20:>5} estimate {row['estimate'] >> 20:>5} MiB  {times:4.2f}"
            f"  {row['phase']} {mib}{said}",
            flush=True,
        )
    save("memory_matrix", {"runs": rows})


if __name__ == "__main__":
    main()

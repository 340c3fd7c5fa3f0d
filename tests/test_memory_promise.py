"""Law 8, in processes of their own: the peak stays under the estimate and does not grow with the raster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyvips

from urst_tiles.demo import make_raster

CODE = """
import json, sys
from urst_tiles import stylize
from urst_tiles.sources import vips_reader
vips_reader._CACHE_BYTES_TIFF = 2 << 20  # so that it is full with rasters as small as these
from urst_tiles.networks.untrained import untrained
how = {"window": 416, "thumbnail": 256, "engine": "torch"}
report = stylize(sys.argv[1], sys.argv[2], network=untrained(width=8, seed=1), **how)
print(json.dumps([report.peak_memory, report.memory_estimate]))
"""


def run(source: Path, target: Path) -> tuple[int, int]:
    """(peak, estimate) of a run in a fresh process, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(source), str(target)], capture_output=True, text=True, check=True
    )
    peak, estimate = json.loads(done.stdout.splitlines()[-1])
    return peak, estimate


def test_law_8_the_peak_stays_under_the_estimate_and_does_not_grow(tmp_path: Path) -> None:
    peaks = []
    # The smaller one has shards in flight, beside each other, already: what grows from there would grow for ever.
    for side in (1900, 2800):
        make_raster(tmp_path / "in.tif", side, side)
        peak, estimate = run(tmp_path / "in.tif", tmp_path / f"{side}.zarr")
        assert peak <= estimate
        peaks.append(peak)
    assert peaks[1] <= 1.1 * peaks[0]


def test_law_8_in_bands(tmp_path: Path) -> None:
    make_raster(tmp_path / "in.tif", 2600, 2600)
    pyvips.Image.new_from_file(str(tmp_path / "in.tif")).pngsave(str(tmp_path / "in.png"), compression=1)
    peak, estimate = run(tmp_path / "in.png", tmp_path / "out.zarr")
    assert peak <= estimate


def test_law_8_with_an_export(tmp_path: Path) -> None:
    # How the peak grows is no question here: an export reads up to 256 MiB at a time, more than this raster has.
    make_raster(tmp_path / "in.tif", 2000, 1500)
    peak, estimate = run(tmp_path / "in.tif", tmp_path / "out.tif")
    assert peak <= estimate

"""Rasters made for the tests, and the same window read by another library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from urst_tiles.geometry import Window

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference images are not there ({SHARED})")

Values = NDArray[Any]


def picture(height: int, width: int, bands: int, dtype: str = "uint8", seed: int = 0) -> Values:
    """A gradient with noise, so that no two windows are alike and JPEG does not ruin it: (height, width, bands)."""
    top = int(np.iinfo(dtype).max)
    y, x = np.mgrid[0:height, 0:width]
    planes = [(np.sin(x / (17 + 5 * b)) + np.cos(y / (23 + 3 * b)) + 2) / 4 * 0.8 for b in range(bands)]
    noise = np.random.default_rng(seed).random((height, width, bands)) * 0.2
    return ((np.stack(planes, axis=-1) + noise) * top).astype(dtype)


def tiled_tiff(path: Path, pixels: Values, *, tile: int = 64, **options: Any) -> Path:
    """Write (height, width, bands) as a tiled TIFF with tifffile."""
    kinds: dict[int, dict[str, Any]] = {
        1: {"photometric": "minisblack"},
        2: {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
        3: {"photometric": "rgb"},
        4: {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    }
    values = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    tifffile.imwrite(path, values, tile=(tile, tile), **(kinds[pixels.shape[2]] | options))
    return path


def cut(pixels: Values, window: Window) -> Values:
    return pixels[window.slices]


def windows(width: int, height: int, count: int, seed: int = 0) -> list[Window]:
    """Random windows, the corners and the whole among them."""
    rng = np.random.default_rng(seed)
    found = [Window(0, 0, width, height), Window(width - 1, height - 1, 1, 1)]
    for _ in range(count):
        col, row = int(rng.integers(0, width)), int(rng.integers(0, height))
        found.append(Window(col, row, int(rng.integers(1, width - col + 1)), int(rng.integers(1, height - row + 1))))
    return found


def mean_of_areas(pixels: Values, width: int, height: int) -> NDArray[np.float64]:
    """Area averaging by two dense matrices: the plain computation that the streaming one must equal."""

    def weights(length: int, out: int) -> NDArray[np.float64]:
        i, at = np.arange(out)[:, None], np.arange(length)[None]
        start, end = i * length / out, (i + 1) * length / out
        shares: NDArray[np.float64] = np.clip(np.minimum(end, at + 1) - np.maximum(start, at), 0, None)
        return shares * out / length

    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    half = np.einsum("ij,jkc->ikc", rows, pixels.astype(np.float64), optimize=True)
    result: NDArray[np.float64] = np.einsum("lk,ikc->ilc", columns, half, optimize=True)
    return result


def assert_mean_of_areas(found: Values, pixels: Values) -> None:
    """Every pixel of ``found`` is the mean of its area of ``pixels``, rounded; at a half either way."""
    assert found.dtype == pixels.dtype.newbyteorder("=")
    height, width = found.shape[:2]
    assert np.abs(found - mean_of_areas(pixels, width, height)).max() <= 0.5 + 1e-6


def peak_growth_of(code: str) -> int:
    """Run Python code in a process of its own; the bytes by which its peak memory grew after ``started()`` was called.

    In a process of its own, because memory that the test runner has freed before would hide what is taken now. From
    /proc, because getrusage counts what the process was before it became Python.
    """
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    script = (
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return 1024 * int(next(line for line in lines if line.startswith('VmHWM')).split()[1])\n"
        "base = [0]\n"
        "def started(): base[0] = peak()\n" + code + "\nprint(peak() - base[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def one_line(message: str) -> bool:
    return "\n" not in message.strip() and 10 < len(message) < 600

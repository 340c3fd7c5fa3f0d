"""Stores and reference results shared by the tests of stores."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from urst_tiles.stores import OmeZarrStore, StoreLayout, build_pyramid
from urst_tiles.stores.metadata import shard_grid


def layout_for(
    width: int,
    height: int,
    bands: Literal[3, 4] = 3,
    dtype: Literal["uint8", "uint16"] = "uint8",
    *,
    chunk: int = 16,
    cores: int = 2,
    down: int | None = None,
    **facts: Any,
) -> StoreLayout:
    return StoreLayout(width, height, bands, dtype, chunk, (cores * chunk, (down or cores) * chunk), **facts)


def pixels_for(layout: StoreLayout, seed: int = 0) -> NDArray[Any]:
    """Smooth waves with noise, some of it 0 and some at the top: (bands, height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : layout.height, 0 : layout.width].astype(np.float32)
    planes = [
        0.5
        + 0.5 * np.sin(x / (9 + band) + seed) * np.cos(y / (13 + band))
        + 0.05 * rng.standard_normal((layout.height, layout.width))
        for band in range(layout.bands)
    ]
    top = np.iinfo(layout.dtype).max
    pixels: NDArray[Any] = (np.clip(np.stack(planes), 0, 1) * top).round().astype(layout.dtype)
    return pixels


def write_level(store: OmeZarrStore, pixels: NDArray[Any], level: int = 0) -> None:
    rows, cols = shard_grid(store.layout, level)
    for row in range(rows):
        for col in range(cols):
            y, x = store.shard_window(level, row, col).slices
            store.write_shard(level, row, col, pixels[:, y, x])


def finished_store(path: Path | str, layout: StoreLayout, seed: int = 0) -> tuple[OmeZarrStore, NDArray[Any]]:
    """A store with its pyramid, and what its full size holds."""
    store, pixels = OmeZarrStore.create(path, layout), pixels_for(layout, seed)
    write_level(store, pixels)
    build_pyramid(store)
    return store, pixels


def halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """The definition, in float64: the mean of what exists of every 2 x 2 block, rounded half up. With alpha, the fourth
    of four bands, colours are weighted by it, in whole numbers, unless it is 0 in the whole block."""
    bands, height, width = pixels.shape
    padded = np.full((bands, height + height % 2, width + width % 2), np.nan)
    padded[:, :height, :width] = pixels
    blocks = padded.reshape(bands, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    means: NDArray[Any] = np.floor(np.nanmean(blocks, axis=(2, 4)) + 0.5).astype(pixels.dtype)
    if bands == 4:
        whole = np.nan_to_num(blocks).astype(np.int64)
        alpha = whole[3].sum(axis=(1, 3))
        colours = (whole[:3] * whole[3]).sum(axis=(2, 4))
        weighted = (2 * colours + alpha) // np.maximum(2 * alpha, 1)
        means[:3] = np.where(alpha > 0, weighted, means[:3])
    return means


def digests(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_python(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter that finds this package and the tests."""
    here = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )

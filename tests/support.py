"""Rasters and comparisons shared by the tests of whole runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import tifffile
from numpy.typing import NDArray

SHARED = Path(__file__).parents[2] / "shared"
MOSAIC = SHARED / "weights" / "johnson" / "mosaic.pth"


def picture(height: int, width: int, bands: int = 3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Smooth shapes with some noise: (height, width, bands) or (height, width) for one band."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        0.5
        + 0.3 * np.sin(x / (7 + 3 * b) + seed) * np.cos(y / (11 + 2 * b))
        + 0.1 * rng.standard_normal((height, width))
        for b in range(bands)
    ]
    top = np.iinfo(dtype).max
    pixels: NDArray[Any] = (np.clip(np.stack(planes, -1), 0, 1) * top).round().astype(dtype)
    return pixels[..., 0] if bands == 1 else pixels


def write_tiff(path: Path, pixels: NDArray[Any], tile: int = 64, **options: Any) -> Path:
    """A tiled TIFF, deflated."""
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    settings: dict[str, Any] = {
        "tile": (tile, tile),
        "compression": "deflate",
        "photometric": "rgb" if bands > 2 else "minisblack",
        "metadata": None,
    }
    if bands in (2, 4):
        settings["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(path, pixels, **(settings | options))
    return path


def tree(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file of a result, the ledger left out: its order is that in which shards
    ended."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "ledger" not in path.parts
    }


def left_in(folder: Path) -> list[str]:
    """Names that stand in a folder."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def holding(mebibytes: int = 400) -> Iterator[None]:
    """What plans count as held by this process already: so much, where it is another amount each time they ask."""
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=mebibytes << 20))
    with patch("urst_tiles.estimating.psutil", SimpleNamespace(Process=lambda: process)):
        yield

"""A raster made from nothing, stylized, with a preview to look at: the main job on a machine that has no picture
yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from urst_tiles.errors import InputError
from urst_tiles.events import Callback
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.reports import run_report_text
from urst_tiles.runs import write_atomically
from urst_tiles.sources import open_source
from urst_tiles.stylizing import stylize

__all__ = ["landscape", "make_raster", "run_demo"]

_TILE = 512
_PREVIEW = 720


def run_demo(
    folder: Path, *, megapixels: float, network: StyleNetwork, said: str = "", callbacks: Sequence[Callback] = ()
) -> str:
    """Make ``demo.tif``, stylize it into ``stylized.zarr``, write ``preview.png`` (left the raster, right the result).

    Parameters:
        folder: created if missing; what an earlier demo left in it is replaced.
        megapixels: size of the raster, 0.05 to 100,000; memory does not grow with it.
        said: what the network is, for the report.

    Returns the report as text.
    """
    if not 0.05 <= megapixels <= 100_000:
        raise InputError(f"a demo of {megapixels} megapixels is out of range; take 0.05 to 100000")
    folder.mkdir(parents=True, exist_ok=True)
    raster, result, preview = folder / "demo.tif", folder / "stylized.zarr", folder / "preview.png"
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    make_raster(raster, round(height * 1.5), height)
    report = stylize(raster, result, network=network, overwrite=True, callbacks=callbacks)
    pictures = [_shown(path) for path in (raster, result)]
    write_atomically(preview, bytes(imagecodecs.png_encode(np.concatenate(pictures, axis=1))))
    return "\n".join(
        [
            f"made       {raster}",
            f"network    {said or network.title}",
            run_report_text(report),
            f"look at    {preview}",
        ]
    )


def make_raster(path: Path, width: int, height: int) -> None:
    """Write the demo's landscape as a tiled, compressed BigTIFF, tile by tile, 300 dpi."""

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for row in range(0, height, _TILE):
            for col in range(0, width, _TILE):
                yield landscape(col, row, _TILE, _TILE, width, height)

    temporary = path.with_name(path.name + ".new")
    with tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(_TILE, _TILE),
            photometric="rgb",
            compression="deflate",
            predictor=True,
            resolution=(300, 300),
            resolutionunit="INCH",
            metadata=None,
        )
    temporary.replace(path)


def landscape(col: int, row: int, width: int, height: int, full_width: int, full_height: int) -> NDArray[np.uint8]:
    """A part of a procedural evening landscape: sky, sun, ridges and water, with detail at every scale.

    Every pixel is a function of its own position alone, so parts join without a seam. (height, width, 3) uint8.
    """
    x = (np.arange(col, col + width, dtype=np.float32) / full_height)[None, :]
    y = (np.arange(row, row + height, dtype=np.float32) / full_height)[:, None]
    middle = 0.5 * full_width / full_height
    sun = np.hypot(x - middle * 1.25, y - 0.33)
    glow = np.exp(-3.2 * sun)
    sky = _mix((0.13, 0.22, 0.47), (0.98, 0.71, 0.42), np.clip(y / 0.62 + 0.15 * _waves(x * 1.3, y * 3.1, 4), 0, 1))
    picture: NDArray[Any] = sky + glow[..., None] * np.array([0.55, 0.32, 0.05], np.float32)
    picture = np.where((sun < 0.06)[..., None], np.array([1.0, 0.93, 0.72], np.float32), picture)
    for layer, (base, rough, colour) in enumerate(
        [(0.50, 0.10, (0.42, 0.38, 0.58)), (0.57, 0.08, (0.28, 0.29, 0.46)), (0.66, 0.06, (0.13, 0.20, 0.22))]
    ):
        ridge = base + rough * _waves(x * (1.7 + layer) + 7.3 * layer, np.float32(layer), 7)
        shade = np.array(colour, np.float32) * (1 + 0.35 * _waves(x * 9, y * 11 + layer, 6))[..., None]
        picture = np.where((y > ridge)[..., None], shade, picture)
    ripples = 0.5 + 0.5 * _waves(x * 6, y * 60, 6)
    water = _mix((0.10, 0.19, 0.30), (0.86, 0.58, 0.42), np.clip(ripples * (0.35 + glow), 0, 1))
    shore = 0.78 + 0.012 * _waves(x * 4, np.float32(3.0), 5)
    picture = np.where((y > shore)[..., None], water, picture)
    rounded: NDArray[np.uint8] = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def _waves(x: NDArray[Any], y: NDArray[Any] | np.float32, octaves: int) -> NDArray[Any]:
    """A sum of rotated sines, about -1 to 1: noise without state."""
    total = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), np.float32)
    for octave in range(octaves):
        angle, scale = 0.9 + 2.4 * octave, 1.83**octave
        u = x * (np.cos(angle) * scale) + y * (np.sin(angle) * scale)
        v = y * (np.cos(angle) * scale) - x * (np.sin(angle) * scale)
        total += np.sin(6.28 * u + 1.7 * octave + 1.3 * np.sin(5.1 * v)) * np.float32(0.55 * 0.62**octave)
    return total


def _mix(low: tuple[float, float, float], high: tuple[float, float, float], share: NDArray[Any]) -> NDArray[Any]:
    start, end = np.array(low, np.float32), np.array(high, np.float32)
    mixed: NDArray[Any] = start + (end - start) * share[..., None]
    return mixed


def _shown(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(open_source(path).thumbnail(_PREVIEW)[..., :3], dtype=np.uint8)

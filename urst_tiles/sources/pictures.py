"""Whole pictures in memory: paintings, photos to train on, style images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from urst_tiles.sources import open_source

__all__ = ["read_rgb"]


def read_rgb(picture: object, short_side: int) -> NDArray[np.uint8]:
    """A picture of any format, or an array, shrunk (never enlarged) to ``short_side``: (height, width, 3), alpha
    dropped, 16 bit rounded to 8.

    Raises:
        SourceError: it cannot be decoded.
    """
    source = open_source(picture)
    pixels = source.thumbnail(short_side)
    colours = pixels[..., : pixels.shape[2] - source.info.alpha]
    if colours.dtype != np.uint8:
        colours = ((colours.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.array(np.broadcast_to(colours, (*colours.shape[:2], 3)), order="C")

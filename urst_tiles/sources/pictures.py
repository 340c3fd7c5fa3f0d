"""Whole pictures in memory: paintings, photos to train on, style images."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from urst_tiles.sources import open_source
from urst_tiles.sources.base import Pixels
from urst_tiles.sources.colour import Colours

__all__ = ["read_rgb"]


def read_rgb(picture: object, short_side: int) -> NDArray[np.uint8]:
    """A picture of any format, or an array, shrunk (never enlarged) to ``short_side``: (height, width, 3) in sRGB,
    converted from the picture's own ICC profile, alpha dropped, 16 bit rounded to 8.

    Raises:
        SourceError: it cannot be decoded.
    """
    source = open_source(picture)
    pixels = source.thumbnail(short_side)
    bare = pixels[..., : pixels.shape[2] - source.info.alpha]
    rgb = cast("Pixels", np.broadcast_to(bare, (*bare.shape[:2], 3)))
    colours = Colours.of(source.info, "srgb").to_srgb(rgb)
    if colours.dtype != np.uint8:
        colours = ((colours.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.array(colours, order="C")

"""The painting, as the losses compare with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from urst_tiles.errors import InputError
from urst_tiles.sources.pictures import read_rgb

__all__ = ["median_filtered", "read_painting"]


def read_painting(path: str | Path, short_side: int, median: int = 1) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1].

    Parameters:
        short_side: in pixels. A smaller reproduction is enlarged: strokes then come out larger, and softer.
        median: side in pixels, after scaling, of a median filter; 1 for none. Speckle that scanning and sharpening left
            would be learned as hatching; a median takes it out and leaves the strokes' edges.

    Raises:
        InputError: nothing is on it.
        SourceError: it cannot be decoded.
    """
    pixels = torch.from_numpy(read_rgb(path, short_side))
    if float(pixels.float().std()) < 1:
        raise InputError(f"{path} is blank; give a painting with something on it")
    image = pixels.permute(2, 0, 1)[None].float() / 255
    short = min(image.shape[-2:])
    if short != short_side:
        sides = [round(side * short_side / short) for side in image.shape[-2:]]
        image = functional.interpolate(image, sides, mode="bicubic", align_corners=False).clamp(0, 1)
    return median_filtered(image, median) if median > 1 else image


def median_filtered(image: Tensor, side: int) -> Tensor:
    """(N, C, H, W) → the same: the median of the ``side`` x ``side`` px around, reflected at the borders."""
    reach = side // 2
    padded = functional.pad(image, (reach, reach, reach, reach), mode="reflect")
    # A band at a time: the windows of all would be side² copies of the image.
    bands = [
        band.unfold(2, side, 1).unfold(3, side, 1).flatten(4).median(-1).values
        for band in torch.split(padded, 1, dim=1)
    ]
    return torch.cat(bands, dim=1)

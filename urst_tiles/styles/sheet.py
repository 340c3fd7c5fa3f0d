"""A contact sheet: the previews of styles, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError
from urst_tiles.runs import write_atomically
from urst_tiles.sources import open_source
from urst_tiles.styles import StyleCard, preview_of

__all__ = ["write_sheet"]

_GAP = 8
# pixels of white between pictures


def write_sheet(cards: Sequence[StyleCard], path: Path, *, columns: int = 2, height: int = 320) -> None:
    """Write a PNG of the styles' previews, row by row in the order of ``cards``.

    Raises:
        InputError: none of the styles has a preview.
        StoreError: the file cannot be written.
    """
    previews = [_shown(found, height) for card in cards if (found := preview_of(card.name)) is not None]
    if not previews:
        raise InputError("none of these styles has a preview to show")
    rows = [_joined(previews[i : i + columns], axis=1) for i in range(0, len(previews), columns)]
    write_atomically(path, bytes(imagecodecs.png_encode(_joined(rows, axis=0))))


def _shown(path: Path, height: int) -> NDArray[np.uint8]:
    pixels: NDArray[Any] = open_source(path).thumbnail(height)[..., :3]
    return pixels.astype(np.uint8)


def _joined(parts: Sequence[NDArray[np.uint8]], *, axis: int) -> NDArray[np.uint8]:
    """Along an axis, with white between and where a part is shorter across it."""
    across = max(part.shape[1 - axis] for part in parts)
    padded = []
    for index, part in enumerate(parts):
        room = [(0, 0), (0, 0), (0, 0)]
        room[1 - axis] = (0, across - part.shape[1 - axis])
        room[axis] = (_GAP if index else 0, 0)
        padded.append(np.pad(part, room, constant_values=255))
    return np.concatenate(padded, axis=axis)

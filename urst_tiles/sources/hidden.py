"""Colours that alpha hides: what a cut-out's statistics must not be made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from urst_tiles.sources.base import Pixels, RasterInfo

__all__ = ["without_hidden"]

_FEW = 4
"""A row that shows less than a fourth of what the fullest one does is filled from other rows."""


def without_hidden(thumbnail: Pixels, info: RasterInfo) -> Pixels:
    """A thumbnail, (height, width, bands), whose fully transparent pixels show mirrored parts of the visible picture.

    What stands under alpha 0 is often black, white or garbage and would shift the statistics; one flat colour would
    make the picture look flatter than it is, and the network would overdo its contrast. Mirrored parts have the
    picture's own textures. A pixel beside a fully transparent one counts as transparent too: shrinking mixed hidden
    colours into it. A thumbnail without fully transparent pixels, or with nothing else, is returned as it is.
    """
    if not info.alpha:
        return thumbnail
    hidden = thumbnail[..., -1] == 0
    if not hidden.any():
        return thumbnail
    wider = _grown(hidden)
    hidden = hidden if wider.all() else wider
    if hidden.all():
        return thumbnail
    out: Pixels = thumbnail.copy()
    shown = hidden.shape[1] - np.count_nonzero(hidden, axis=1)
    whole = shown * _FEW >= shown.max()
    for y in np.flatnonzero(whole & hidden.any(axis=1)):
        out[y, :, :-1] = out[y, _mirrored(~hidden[y]), :-1]
    from_row = _mirrored(whole)
    for y in np.flatnonzero(~whole):
        out[y, hidden[y], :-1] = out[from_row[y], hidden[y], :-1]
    return out


def _grown(hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the eight neighbours of each."""
    tall = hidden.copy()
    tall[1:] |= hidden[:-1]
    tall[:-1] |= hidden[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _mirrored(visible: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each place in a line the place its colour comes from: itself where visible; else as far into the line of
    visible ones, back and forth, as it lies from the nearest of them. At least one must be visible."""
    places = np.flatnonzero(visible)
    at = np.arange(len(visible))
    right = np.searchsorted(places, at)
    left = right - 1
    to_left = np.where(left >= 0, at - places[left], len(visible))
    to_right = np.where(right < len(places), places[np.minimum(right, len(places) - 1)] - at, len(visible))
    steps = np.where(to_left <= to_right, left - (to_left - 1), right + to_right - 1) % (2 * len(places))
    mirrored: NDArray[np.intp] = places[np.where(steps < len(places), steps, 2 * len(places) - 1 - steps)]
    return np.where(visible, at, mirrored)

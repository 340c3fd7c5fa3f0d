"""The raster of a run: opened as its options ask."""

from __future__ import annotations

from typing import Any

import numpy as np

from urst_tiles.options import RunOptions
from urst_tiles.sources import open_source
from urst_tiles.sources.base import Source
from urst_tiles.sources.masked import MaskedSource

__all__ = ["open_raster"]


def open_raster(given: object, options: RunOptions) -> Source:
    """What a run reads from: a path, URL, array or Source, presented as the options ask: behind a mask, where there is
    one.

    Raises:
        SourceError: it or its mask cannot be opened, or they do not fit each other.
    """
    raster = open_source(
        given,
        axes=options.axes,
        level=options.level,
        channels=options.channels,
        range=options.range,
        nodata=options.nodata,
    )
    if options.mask is None:
        return raster
    return MaskedSource(raster, open_source(_of_levels(options.mask)))


def _of_levels(mask: Any) -> Any:
    """An array of truths, NumPy's or Dask's, as one of 0 and 255; anything else as it is."""
    truths = hasattr(mask, "__mul__") and getattr(mask, "dtype", None) == np.bool_
    return mask * np.uint8(255) if truths else mask

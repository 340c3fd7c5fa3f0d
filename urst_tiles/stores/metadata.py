"""What a store says about itself: OME-Zarr 0.5 attributes made from a layout, and a layout found again in them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np

from urst_tiles import __version__
from urst_tiles.errors import InputError
from urst_tiles.sources.geo import GeoTags
from urst_tiles.stores.base import StoreLayout

__all__ = ["GROUP_KEY", "UNFINISHED", "group_attributes", "layout_of", "level_sizes", "shard_grid"]

GROUP_KEY = "urst_tiles"
"""Where the package keeps its own facts among the group's attributes."""

UNFINISHED = "unfinished"
"""Stands in their place until all arrays are created."""

_OME_VERSION = "0.5"
_CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"), ("alpha", "FFFFFF"))


def level_sizes(layout: StoreLayout) -> tuple[tuple[int, int], ...]:
    """(width, height) of every level: halved, rounded up, until the larger side fits one chunk."""
    sizes = [(layout.width, layout.height)]
    while max(sizes[-1]) > layout.chunk:
        width, height = sizes[-1]
        sizes.append((-(-width // 2), -(-height // 2)))
    return tuple(sizes)


def shard_grid(layout: StoreLayout, level: int) -> tuple[int, int]:
    """(rows, columns) of shards of a level."""
    width, height = level_sizes(layout)[level]
    return -(-height // layout.shard[1]), -(-width // layout.shard[0])


def group_attributes(layout: StoreLayout, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The group's attributes, JSON-able: ``ome``, the package's own under :data:`GROUP_KEY`, and ``extra`` beside them.

    Raises:
        InputError: ``extra`` uses one of the two names.
    """
    taken = {"ome", GROUP_KEY} & set(extra)
    if taken:
        raise InputError(f"a store's attributes {sorted(taken)} are its own; give the extra ones other names")
    return {"ome": _ome(layout), GROUP_KEY: _own(layout), **extra}


def layout_of(
    attributes: Mapping[str, Any], shape: tuple[int, ...], chunk: int, shard: tuple[int, int], dtype: str
) -> StoreLayout:
    """The layout a store was created from. ``shape`` is the full-size array's (bands, height, width); ``shard`` is
    (width, height).

    Raises:
        KeyError, TypeError, ValueError: these are not the attributes of such a store.
    """
    own = attributes[GROUP_KEY]
    bands, height, width = shape
    if dtype not in ("uint8", "uint16") or bands not in (3, 4):
        raise ValueError(f"it holds {bands} bands of {dtype}")
    profile, resolution = own.get("icc_profile"), own.get("resolution")
    return StoreLayout(
        width=width,
        height=height,
        bands=cast("Literal[3, 4]", bands),
        dtype=cast("Literal['uint8', 'uint16']", dtype),
        chunk=chunk,
        shard=shard,
        icc_profile=None if profile is None else base64.b64decode(profile, validate=True),
        resolution=None if resolution is None else (float(resolution[0]), float(resolution[1])),
        geo=GeoTags.from_json(own["geo"]) if "geo" in own else None,
        name=own["name"],
    )


def _own(layout: StoreLayout) -> dict[str, Any]:
    own: dict[str, Any] = {"version": __version__, "alpha": layout.bands == 4, "name": layout.name}
    if layout.icc_profile is not None:
        own["icc_profile"] = base64.b64encode(layout.icc_profile).decode("ascii")
    if layout.resolution is not None:
        own["resolution"] = list(layout.resolution)
    if layout.geo is not None:
        own["geo"] = layout.geo.to_json()
    return own


def _ome(layout: StoreLayout) -> dict[str, Any]:
    space: dict[str, Any] = {"type": "space"}
    # A pixel's side in micrometres; without a known resolution, pixels of the full size are the unit.
    side = (1.0, 1.0)
    if layout.resolution is not None:
        space["unit"] = "micrometer"
        side = (1000.0 / layout.resolution[0], 1000.0 / layout.resolution[1])
    multiscale = {
        "name": layout.name,
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}],
        "datasets": [_dataset(level, *side) for level in range(len(level_sizes(layout)))],
        "type": "mean",
        "metadata": {"description": "2 x 2 area average of the level before, rounded half up"},
    }
    return {"version": _OME_VERSION, "multiscales": [multiscale], "omero": _omero(layout)}


def _dataset(level: int, x: float, y: float) -> dict[str, Any]:
    """Where a level's pixel centres are: pixel i stands for 2^k full-size pixels from i·2^k on and has their centre."""
    factor = 2**level
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, factor * y, factor * x]}]
    if level:
        centre = (factor - 1) / 2
        transformations.append({"type": "translation", "translation": [0.0, centre * y, centre * x]})
    return {"path": str(level), "coordinateTransformations": transformations}


def _omero(layout: StoreLayout) -> dict[str, Any]:
    """Tells viewers to show the bands together, in colour, over the whole range of values."""
    top = int(np.iinfo(layout.dtype).max)
    channels = [
        {
            "label": label,
            "color": colour,
            # Shown as a fourth light, alpha would wash the colours out.
            "active": label != "alpha",
            "coefficient": 1.0,
            "family": "linear",
            "inverted": False,
            "window": {"min": 0, "max": top, "start": 0, "end": top},
        }
        for label, colour in _CHANNELS[: layout.bands]
    ]
    return {"name": layout.name, "channels": channels, "rdefs": {"model": "color"}}

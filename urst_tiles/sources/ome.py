"""What the attributes of a Zarr group say: OME-Zarr 0.4 and 0.5, and this package's own. Values in and out, no I/O."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from urst_tiles.errors import SourceError

__all__ = ["GroupFacts", "Multiscales", "read_group_attributes"]

_MM = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1e3,
    "inch": 25.4,
}
"""Millimetres in the units of length of OME-Zarr that a picture may have."""


@dataclass(frozen=True, slots=True)
class Multiscales:
    """One picture in several sizes."""

    axes: str | None
    # one letter an axis, or None where the metadata is too old to say
    paths: tuple[str, ...]
    # of the arrays, full size first
    resolutions: tuple[tuple[float, float] | None, ...]
    # of each of them, pixels per millimetre, (x, y)


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a group says of the picture in it."""

    multiscales: Multiscales | None = None
    icc_profile: bytes | None = None
    resolutions: tuple[tuple[float, float] | None, ...] = ()
    # of each array, pixels per millimetre, (x, y)
    alpha: bool | None = None
    # whether the last channel is alpha; None where nothing says so
    first_series: bool = False
    # whether this is a collection in the layout of bioformats2raw, whose first picture is the group "0"
    channel_names: tuple[str, ...] = ()
    windows: tuple[tuple[float, float] | None, ...] = ()
    # of each channel, its least and its largest value; None where nothing says so

    def range_of(self, channels: tuple[int, ...] | None) -> tuple[float, float] | None:
        """The least and the largest value of these channels, or of all; None where it is not stated of each."""
        try:
            found = [self.windows[channel] for channel in channels] if channels else list(self.windows)
        except IndexError:
            return None
        known = [window for window in found if window is not None]
        if not known or len(known) < len(found):
            return None
        return min(low for low, _ in known), max(high for _, high in known)


def read_group_attributes(attributes: Mapping[str, Any], name: str) -> GroupFacts:
    """Read the attributes of a group.

    Raises:
        SourceError: they are there and make no sense.
    """
    ome = attributes.get("ome", attributes)
    try:
        scales = ome.get("multiscales")
        multiscales = _multiscales(scales[0]) if scales else None
        own = attributes.get("urst_tiles", {})
        icc = own.get("icc_profile")
        profile = base64.b64decode(icc, validate=True) if icc else None
        alpha = own.get("alpha")
        resolution = _pair(own.get("resolution"))
        channels = (ome.get("omero") or {}).get("channels") or ()
        names = tuple(str(channel.get("label", at)) for at, channel in enumerate(channels))
        windows = tuple(_window(channel) for channel in channels)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
        raise SourceError(
            f"the metadata of {name} is damaged ({type(error).__name__}: {error}); mend it first"
        ) from error
    return GroupFacts(
        multiscales=multiscales,
        icc_profile=profile,
        resolutions=_resolutions(resolution, multiscales),
        alpha=None if alpha is None else bool(alpha),
        first_series=multiscales is None and "bioformats2raw.layout" in ome,
        channel_names=names,
        windows=windows,
    )


def _resolutions(
    own: tuple[float, float] | None, multiscales: Multiscales | None
) -> tuple[tuple[float, float] | None, ...]:
    """This package's own word on the full size goes first; the levels shrink as the multiscales say."""
    found = multiscales.resolutions if multiscales else (None,)
    if own is None:
        return found
    full = found[0]
    if full is None:
        return (own,)
    return tuple(level and (own[0] * level[0] / full[0], own[1] * level[1] / full[1]) for level in found)


def _window(channel: Mapping[str, Any]) -> tuple[float, float] | None:
    """What OMERO calls the window: its ``min`` and ``max`` are the values there can be."""
    window = channel.get("window") or {}
    if "min" not in window or "max" not in window:
        return None
    low, high = float(window["min"]), float(window["max"])
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _multiscales(scales: Mapping[str, Any]) -> Multiscales:
    axes = scales.get("axes") or []
    # 0.3 names axes by strings, 0.4 and later by objects; before 0.3 there were none.
    names = [axis if isinstance(axis, str) else str(axis["name"]) for axis in axes]
    datasets = scales["datasets"]
    paths = tuple(str(dataset["path"]) for dataset in datasets)
    if not paths:
        raise ValueError("no datasets")
    resolutions: list[tuple[float, float] | None] = [None] * len(paths)
    if names and not isinstance(axes[0], str):
        units, common = [axis.get("unit") for axis in axes], _scale(scales, len(names))
        for level, dataset in enumerate(datasets):
            scale = [first * second for first, second in zip(_scale(dataset, len(names)), common, strict=True)]
            resolutions[level] = _resolution(names, units, scale)
    return Multiscales("".join(names) or None, paths, tuple(resolutions))


def _scale(holder: Mapping[str, Any], ndim: int) -> list[float]:
    for transformation in holder.get("coordinateTransformations") or ():
        if transformation.get("type") == "scale" and "scale" in transformation:
            return [float(value) for value in transformation["scale"]]
    return [1.0] * ndim


def _resolution(names: list[str], units: list[Any], scale: list[float]) -> tuple[float, float] | None:
    per_mm = []
    for axis in "xy":
        at = [name.lower() for name in names].index(axis)
        size = _MM.get(units[at] or "", 0.0) * scale[at]
        if not size > 0:
            return None
        per_mm.append(1 / size)
    return per_mm[0], per_mm[1]


def _pair(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    x, y = (float(number) for number in value)
    return (x, y) if x > 0 and y > 0 else None

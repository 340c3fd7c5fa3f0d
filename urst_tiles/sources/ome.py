"""What the attributes of a Zarr group say: OME-Zarr 0.4 and 0.5, and this package's own. Values in and out, no I/O."""

from __future__ import annotations

import base64
import binascii
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
    resolution: tuple[float, float] | None
    # of the full size, pixels per millimetre, (x, y)


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a group says of the picture in it."""

    multiscales: Multiscales | None
    icc_profile: bytes | None
    resolution: tuple[float, float] | None
    # pixels per millimetre, (x, y)
    alpha: bool | None
    # whether the last channel is alpha; None where nothing says so
    first_series: bool
    # whether this is a collection in the layout of bioformats2raw, whose first picture is the group "0"


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
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
        raise SourceError(
            f"the metadata of {name} is damaged ({type(error).__name__}: {error}); mend it first"
        ) from error
    return GroupFacts(
        multiscales=multiscales,
        icc_profile=profile,
        resolution=resolution or (multiscales.resolution if multiscales else None),
        alpha=None if alpha is None else bool(alpha),
        first_series=multiscales is None and "bioformats2raw.layout" in ome,
    )


def _multiscales(scales: Mapping[str, Any]) -> Multiscales:
    axes = scales.get("axes") or []
    # 0.3 names axes by strings, 0.4 and later by objects; before 0.3 there were none.
    names = [axis if isinstance(axis, str) else str(axis["name"]) for axis in axes]
    datasets = scales["datasets"]
    paths = tuple(str(dataset["path"]) for dataset in datasets)
    if not paths:
        raise ValueError("no datasets")
    resolution = None
    if names and not isinstance(axes[0], str):
        units = [axis.get("unit") for axis in axes]
        factors = [_scale(datasets[0], len(names)), _scale(scales, len(names))]
        resolution = _resolution(names, units, [first * second for first, second in zip(*factors, strict=True)])
    return Multiscales("".join(names) or None, paths, resolution)


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

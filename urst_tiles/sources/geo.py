"""Where a raster lies on the Earth: the tags of GeoTIFF as they stand in a file, moved along with the pixels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["GeoTags", "read_geo_tags"]

_CODES = {
    "pixel_scale": 33550,
    "tie_points": 33922,
    "transformation": 34264,
    "keys": 34735,
    "doubles": 34736,
    "ascii": 34737,
}
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams."""
_RASTER_TYPE, _IS_POINT = 1025, 2
"""The key that says whether coordinates are those of a pixel's corner (1) or of its middle (2)."""
_MAX_VALUES = 100_000
"""No honest header has as many."""


@dataclass(frozen=True, slots=True)
class GeoTags:
    """The tags' values; empty where the file has no such tag."""

    keys: tuple[int, ...]
    pixel_scale: tuple[float, ...] = ()
    tie_points: tuple[float, ...] = ()
    # six numbers each: column, row, 0 in the raster; x, y, z on the Earth
    transformation: tuple[float, ...] = ()
    # 4 x 4, row by row: raster to Earth
    doubles: tuple[float, ...] = ()
    ascii: str = ""

    def of_region(self, col_off: int, row_off: int) -> GeoTags:
        """Of the part of the raster that begins there."""
        return self._moved(1, 1, col_off, row_off)

    def of_level(self, across: float, down: float) -> GeoTags:
        """Of a copy of the raster whose pixels are so many pixels wide and high."""
        # Where coordinates are those of pixels' middles, a larger pixel's middle is not its first one's.
        shift = 0.5 if self._is_point() else 0.0
        return self._moved(across, down, shift * (across - 1), shift * (down - 1))

    def tags(self) -> tuple[tuple[int, str, int, Any], ...]:
        """(code, type, count, value) for a TIFF: "d" is 64-bit floats, "H" 16-bit numbers, "s" ASCII; in order."""
        found: list[tuple[int, str, int, Any]] = [
            (_CODES[name], "H" if name == "keys" else "d", len(values), values)
            for name, values in self._fields()
            if values and name != "ascii"
        ]
        if self.ascii:
            found.append((_CODES["ascii"], "s", len(self.ascii) + 1, self.ascii))
        return tuple(sorted(found))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able value; see :meth:`from_json`."""
        return {name: value if isinstance(value, str) else list(value) for name, value in self._fields() if value}

    @staticmethod
    def from_json(document: dict[str, Any]) -> GeoTags:
        """What :meth:`to_json` gave.

        Raises:
            TypeError, ValueError, KeyError: it is something else.
        """
        return _checked(
            {
                "keys": tuple(int(key) for key in document["keys"]),
                "ascii": str(document.get("ascii", "")),
                **{
                    name: tuple(float(value) for value in document.get(name, ()))
                    for name in ("pixel_scale", "tie_points", "transformation", "doubles")
                },
            }
        )

    def _fields(self) -> tuple[tuple[str, Any], ...]:
        return tuple((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))

    def _is_point(self) -> bool:
        return any(
            self.keys[at] == _RASTER_TYPE and self.keys[at + 3] == _IS_POINT for at in range(4, len(self.keys), 4)
        )

    def _moved(self, across: float, down: float, col: float, row: float) -> GeoTags:
        """A new column i and row j lie at column i·across + col and row j·down + row of the old raster."""
        ties = list(self.tie_points)
        for at in range(0, len(ties), 6):
            ties[at], ties[at + 1] = (ties[at] - col) / across, (ties[at + 1] - row) / down
        matrix = list(self.transformation)
        for at in range(0, len(matrix), 4):
            a, b = matrix[at : at + 2]
            matrix[at], matrix[at + 1], matrix[at + 3] = a * across, b * down, matrix[at + 3] + a * col + b * row
        scale = self.pixel_scale
        if scale:
            scale = (scale[0] * across, scale[1] * down, *scale[2:])
        return dataclasses.replace(self, pixel_scale=scale, tie_points=tuple(ties), transformation=tuple(matrix))


def read_geo_tags(tags: Any) -> GeoTags | None:
    """The tags of a ``tifffile.TiffTags``; None where there are none or they make no sense."""
    found: dict[str, Any] = {}
    for name, code in _CODES.items():
        value = tags.valueof(code)
        if value is not None:
            found[name] = value if isinstance(value, str | tuple) else (value,)
    try:
        return _checked(found)
    except (TypeError, ValueError, KeyError):
        return None


def _checked(found: dict[str, Any]) -> GeoTags:
    keys, text = found["keys"], found.get("ascii", "")
    if len(keys) % 4 or not 4 <= len(keys) <= _MAX_VALUES or not all(0 <= key < 65536 for key in keys):
        raise ValueError("no directory of keys")
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("the text is no ASCII")
    for name, step in (("pixel_scale", 3), ("tie_points", 6), ("transformation", 16), ("doubles", 1)):
        values = found.get(name, ())
        if len(values) % step or len(values) > _MAX_VALUES or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} makes no sense")
    numbers = {name: tuple(values) for name, values in found.items() if name != "ascii"}
    return GeoTags(**numbers, ascii=text)

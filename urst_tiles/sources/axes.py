"""Which axis of an array is which, and how a window of it becomes (height, width, bands)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Colour

__all__ = ["Layout", "colour_of", "layout_of"]

_KNOWN = "tczyx"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the picture lies in an array. Of all other axes the first place is read."""

    ndim: int
    y: int
    # index of the axis of rows
    x: int
    # of columns
    c: int | None
    # of channels, or None where there is no such axis
    notes: tuple[str, ...] = ()
    # what of the array is not read, one sentence each

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(width, height)."""
        return shape[self.x], shape[self.y]

    def channels(self, shape: tuple[int, ...]) -> int:
        return 1 if self.c is None else shape[self.c]

    def index(self, window: Window, channels: slice = slice(None)) -> tuple[int | slice, ...]:
        """What to index the array with to get the window; the other axes disappear."""
        rows, columns = window.slices
        found: list[int | slice] = [0] * self.ndim
        found[self.y], found[self.x] = rows, columns
        if self.c is not None:
            found[self.c] = channels
        return tuple(found)

    def arrange(self, block: NDArray[Any]) -> NDArray[Any]:
        """What :meth:`index` gave, seen as (height, width, bands)."""
        order = sorted(axis for axis in (self.y, self.x, self.c) if axis is not None)
        wanted = [order.index(axis) for axis in (self.y, self.x, self.c) if axis is not None]
        turned = block.transpose(wanted)
        return turned[:, :, None] if self.c is None else turned


def layout_of(shape: tuple[int, ...], axes: str | None, name: str) -> Layout:
    """Find the axes of an array of this shape: as named by ``axes``, or from the shape where it leaves no doubt.

    Raises:
        SourceError: the axes do not fit the shape or are ambiguous.
    """
    names = _checked(axes.lower(), shape, name) if axes is not None else _guessed(shape, name)
    notes = tuple(
        f"It holds {length} pictures along its axis {axis}; the first is read."
        for axis, length in zip(names, shape, strict=True)
        if axis in "tz" and length > 1
    )
    return Layout(len(shape), names.index("y"), names.index("x"), names.index("c") if "c" in names else None, notes)


def _checked(axes: str, shape: tuple[int, ...], name: str) -> str:
    good = set(axes) <= set(_KNOWN) and len(set(axes)) == len(axes) and {"y", "x"} <= set(axes)
    if not good or len(axes) != len(shape):
        raise SourceError(
            f"the axes {axes!r} do not fit {name}, whose shape is {shape}. "
            "Name each axis with one letter of t, c, z, y, x, for example axes='yxc' or axes='cyx'"
        )
    return axes


def _guessed(shape: tuple[int, ...], name: str) -> str:
    extra = 0
    while len(shape) - extra > 3 and shape[extra] == 1:
        extra += 1
    rest = shape[extra:]
    lead = "tz"[:extra] if extra <= 2 else ""
    if len(rest) == 2 and len(lead) == extra:
        return lead + "yx"
    if len(rest) == 3 and len(lead) == extra:
        first, last = 1 <= rest[0] <= 4, 1 <= rest[2] <= 4
        if first != last:
            return lead + ("cyx" if first else "yxc")
    raise SourceError(
        f"it is not clear which axes of {name} are rows, columns and channels (shape {shape}). "
        "Say so, for example with --axes yxc or --axes cyx (in Python axes='yxc')"
    )


def colour_of(channels: int, *, alpha: bool | None, name: str, names: Sequence[str] = ()) -> tuple[Colour, bool]:
    """(colour, alpha) of this many channels. ``alpha`` is what the metadata says of the last one, None if nothing.

    Raises:
        SourceError: the channels are neither grey nor RGB, with or without alpha.
    """
    if alpha is None:
        alpha = channels == 4
    colours = channels - alpha
    if colours == 1:
        return "grey", alpha
    if colours == 3:
        return "rgb", alpha
    listed = f" ({', '.join(names)})" if names else ""
    doubt = "; with two channels, whether the second is alpha is not known" if channels == 2 else ""
    raise SourceError(
        f"{name} has {channels} channels{listed}, which are neither grey nor RGB, with or without alpha{doubt}. "
        "Choose one or three of them, for example with --channels 0,1,2 (in Python channels=(0, 1, 2))"
    )

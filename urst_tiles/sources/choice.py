"""What is asked for of a raster that holds more than one picture, or numbers that are no brightness yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from urst_tiles.errors import InputError, SourceError

__all__ = ["ALL_OF_IT", "Choice", "channels_of", "level_of", "range_of"]

Channels = Sequence[int] | int | str
Range = Sequence[float] | str
Limits = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """Checked; what of it a raster can follow is for its source to say."""

    axes: str | None = None
    # one letter an axis, such as "cyx"; None: from metadata or an unambiguous shape
    level: int = 0
    # of the pyramid; 0 is the full size
    channels: tuple[int, ...] | None = None
    # from 0: one for grey or three for RGB, and one more for alpha; None: all there are
    range: Limits | None = None
    # what is black and what is white; None: as the file says, or the range of 8 or 16 bit
    nodata: float | None = None
    # pixels with this value in all colour bands are transparent; None: as the file says

    @classmethod
    def of(
        cls,
        *,
        axes: str | None = None,
        level: int | None = None,
        channels: Channels | None = None,
        range: Range | None = None,  # noqa: A002 - the option's name
        nodata: float | None = None,
    ) -> Choice:
        """From any of the ways to write it.

        Raises:
            InputError: a value is none of these.
        """
        if level is not None and (isinstance(level, bool) or not isinstance(level, int) or level < 0):
            raise InputError(f"level must be a whole number of at least 0, the full size, not {level!r}")
        if nodata is not None and (isinstance(nodata, bool) or not isinstance(nodata, int | float | np.number)):
            raise InputError(f"nodata must be a number, not {nodata!r}")
        return cls(
            axes,
            level or 0,
            None if channels is None else _parsed_channels(channels),
            None if range is None else _parsed_range(range),
            None if nodata is None else float(nodata),
        )


ALL_OF_IT = Choice()
"""Nothing in particular: the whole raster at its full size."""


def _parsed_channels(given: Channels) -> tuple[int, ...]:
    try:
        parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else list(given)
        found = tuple(int(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise InputError(_no_channels(given)) from error
    if not 1 <= len(found) <= 4 or min(found) < 0:
        raise InputError(_no_channels(given))
    return found


def _no_channels(given: object) -> str:
    return (
        f"channels {given!r} are none: give one for grey or three for red, green and blue, counted from 0, like 3,2,1; "
        "one more becomes alpha"
    )


def _parsed_range(given: Range) -> Limits:
    try:
        low, high = (float(part) for part in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError) as error:
        raise InputError(f"range {given!r} is not LO,HI: the values of black and of white, like 0,1") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"range {low:g},{high:g} is none: the first value is black, the second, larger one is white")
    return low, high


def channels_of(choice: Choice, there: int, name: str) -> tuple[int, ...] | None:
    """The channels chosen, of so many.

    Raises:
        SourceError: there is no such channel.
    """
    if choice.channels is not None and max(choice.channels) >= there:
        raise SourceError(
            f"{name} has no channel {max(choice.channels)}: it has {there}, counted from 0 to {there - 1}"
        )
    return choice.channels


def level_of(choice: Choice, sizes: Sequence[tuple[int, int]], name: str) -> int:
    """The level chosen, of those with these sizes, (width, height), the full one first.

    Raises:
        SourceError: there is no such level.
    """
    if choice.level >= len(sizes):
        listed = ", ".join(f"{level} ({width} x {height})" for level, (width, height) in enumerate(sizes))
        raise SourceError(f"{name} has no level {choice.level}; there is: {listed}")
    return choice.level


def range_of(choice: Choice, kind: np.dtype[np.generic], stated: Limits | None, name: str) -> Limits | None:
    """What is black and white in numbers of this kind: as chosen, as the file states, or None for all of 8 or 16 bit.

    Raises:
        SourceError: it is needed and not known.
    """
    if kind.kind not in "uif":
        raise SourceError(f"{name} has {kind.name} pixels, which are no brightness. Convert it to 8 or 16 bit first")
    if choice.range is not None or (kind.kind == "u" and kind.itemsize <= 2):
        return choice.range
    if stated is not None:
        return stated
    raise SourceError(
        f"{name} has {kind.name} pixels, which have no known range of brightness. "
        "Say which values are black and white, for example with --range 0,1 (in Python range=(0, 1))"
    )

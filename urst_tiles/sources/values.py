"""How the numbers of an array become 8 or 16 bit pixels with alpha. `vips_values` is the same in libvips' words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from urst_tiles.sources.base import Pixels
from urst_tiles.sources.choice import Choice

__all__ = ["TOP", "Values", "held", "said_of"]

TOP = 65535
"""White, after a range was mapped."""


@dataclass(frozen=True, slots=True)
class Values:
    """One rule for every pixel: black and white, and what is transparent."""

    kind: np.dtype[Any]
    # of the numbers given
    own_alpha: bool
    # whether the last band given is alpha
    range: tuple[float, float] | None = None
    # what is black and white; None: the numbers stay as they are
    nodata: float | None = None
    # transparent where all colour bands have this value, as the numbers' own type holds it
    not_a_number: bool = False
    # transparent where a band is no number: so in every raster of floats, for nothing is known of it before it is read

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """Of the pixels."""
        return "uint8" if self.range is None and self.kind.itemsize == 1 else "uint16"

    @property
    def adds_alpha(self) -> bool:
        return (self.nodata is not None or self.not_a_number) and not self.own_alpha

    @property
    def plain(self) -> bool:
        """Whether the numbers are the pixels."""
        return self.range is None and self.nodata is None and not self.not_a_number

    def put(self, numbers: NDArray[Any], out: Pixels) -> None:
        """(height, width, bands given) → ``out``, (height, width, bands)."""
        if self.plain:
            out[:] = numbers
            return
        colours = numbers[..., :-1] if self.own_alpha else numbers
        count = colours.shape[-1]
        out[..., :count] = colours if self.range is None else self._mapped(colours, *self.range)
        if out.shape[-1] == count:
            return
        top = np.iinfo(out.dtype).max
        out[..., -1] = self._alpha(numbers[..., -1]) if self.own_alpha else top
        out[self._hidden(colours), -1] = 0

    def _mapped(self, colours: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
        scaled = (colours.astype(np.float64) - low) * (TOP / (high - low))
        if self.not_a_number:
            scaled[np.isnan(scaled)] = 0
        return np.rint(np.clip(scaled, 0, TOP, out=scaled), out=scaled)

    def _alpha(self, alpha: NDArray[Any]) -> NDArray[Any]:
        if self.range is None:
            return alpha
        opaque = 1 if self.kind.kind == "f" else np.iinfo(self.kind).max
        return np.rint(np.clip(np.nan_to_num(alpha.astype(np.float64)) * (TOP / opaque), 0, TOP))

    def _hidden(self, colours: NDArray[Any]) -> NDArray[np.bool_]:
        hidden: NDArray[np.bool_] = np.zeros(colours.shape[:2], np.bool_)
        if self.not_a_number:
            hidden |= np.isnan(colours).any(axis=-1)
        if self.nodata is not None:
            hidden |= (colours == self.nodata).all(axis=-1)
        return hidden


def held(nodata: float | None, kind: np.dtype[Any]) -> float | None:
    """A nodata value as numbers of this kind hold it; None where none of them can be it, or where it is no number: that
    is transparent in any case."""
    if nodata is None or math.isnan(nodata):
        return None
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return float(kind.type(nodata))
    limits = np.iinfo(kind)
    return nodata if nodata == int(nodata) and limits.min <= nodata <= limits.max else None


def said_of(choice: Choice, values: Values) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what decides the pixels, "name=value" each; what people should know, a sentence each)."""
    facts, notes = [], []
    if choice.axes is not None:
        facts.append(f"axes={choice.axes}")
    if choice.level:
        facts.append(f"level={choice.level}")
    if choice.channels is not None:
        facts.append(f"channels={','.join(map(str, choice.channels))}")
    if values.range is not None:
        low, high = values.range
        facts.append(f"range={low!r},{high!r}")
        source = "" if choice.range is not None else ", as the file states"
        notes.append(
            f"The {values.kind.name} values from {low:g} (black) to {high:g} (white){source}, became 16 bit; what lies "
            "outside is clipped."
        )
    if values.not_a_number:
        notes.append("Pixels that are no number (NaN) are transparent.")
    if values.nodata is not None:
        facts.append(f"nodata={values.nodata!r}")
        notes.append(f"Pixels of the nodata value {values.nodata:g} are transparent.")
    return tuple(facts), tuple(notes)

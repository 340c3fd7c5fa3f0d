"""Channels, ranges and nodata of what libvips reads: the rules of `values` as operations that run while it reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from urst_tiles.errors import SourceError
from urst_tiles.sources.choice import ALL_OF_IT, Choice, channels_of, range_of
from urst_tiles.sources.tiff_header import TiffFacts
from urst_tiles.sources.values import TOP, Values, held, said_of
from urst_tiles.sources.vips_image import Presented, loader_of, open_image, present

__all__ = ["Opening"]

_KINDS = {
    "uchar": "uint8",
    "char": "int8",
    "ushort": "uint16",
    "short": "int16",
    "uint": "uint32",
    "int": "int32",
    "float": "float32",
    "double": "float64",
}
"""libvips' names for the types of numbers."""
_OTHER_SPACES = ("cmyk", "lab", "labs", "labq", "lch")
"""Whose numbers are converted as they are."""
_LINEAR = ("openexr", "rad")
"""Loaders of formats that hold linear light."""


@dataclass(frozen=True, slots=True)
class Opening:
    """One image of a file and what is asked of it."""

    path: str
    name: str
    # for messages
    facts: TiffFacts | None = None
    choice: Choice = ALL_OF_IT
    options: tuple[tuple[str, int], ...] = ()
    # of libvips' loader: which page or level

    def image(self, access: Literal["random", "sequential"]) -> Any:
        """A pyvips.Image of its own, as stored.

        Raises:
            pyvips.Error: it cannot be opened.
        """
        return open_image(self.path, access, **dict(self.options))

    def presented(self, access: Literal["random", "sequential"]) -> Presented:
        """The image as it was asked for, grey or RGB.

        Raises:
            pyvips.Error: it cannot be opened.
            SourceError: its pixels cannot be shown like that.
        """
        return self.present(self.image(access))

    def present(self, image: Any) -> Presented:
        """The same of an image that is open."""
        image, choice, notes = self._chosen(image)
        found = present(image, self.name, self.facts)
        icc = found.icc_profile
        if icc and self.choice.channels not in (None, (0, 1, 2), (0, 1, 2, 3)):
            icc, notes = None, (*notes, "The ICC profile does not describe the channels chosen and is not kept.")
        return dataclasses.replace(found, icc_profile=icc, choice=choice, notes=found.notes + notes)

    def _chosen(self, image: Any) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
        """The image with the channels, range and nodata asked for, and what to say of it."""
        linear = loader_of(image, self.path).startswith(_LINEAR)
        if image.coding == "rad":
            image = image.rad2float()
        channels = channels_of(self.choice, image.bands, self.name)
        converted = image.interpretation in _OTHER_SPACES and channels is None
        if image.coding != "none" or image.format not in _KINDS or converted:
            if self.choice.range is not None or self.choice.nodata is not None:
                raise SourceError(
                    f"{self.name} is stored as {image.interpretation}: it takes no range and no nodata value"
                )
            return image, (), ()  # converted or refused by present()
        alpha = bool(image.hasalpha())
        if channels is not None:
            first, *others = (image[channel] for channel in channels)
            image, alpha = first.bandjoin(others) if others else first, len(channels) in (2, 4)
        if image.bands - alpha not in (1, 3):
            raise SourceError(
                f"{self.name} has {image.bands} bands ({image.interpretation}), which are neither grey nor RGB. "
                "Choose one or three of them, for example with --channels 0,1,2"
            )
        values = self._values(np.dtype(_KINDS[image.format]), own_alpha=alpha)
        choice, notes = said_of(self.choice, values)
        if channels is not None or not values.plain:
            image = self._put(image, values, linear=linear)
        if values.range is not None and linear:
            notes = (*notes, "Its light is linear: after the range came the curve of sRGB.")
        return image, choice, notes

    def _values(self, kind: np.dtype[Any], *, own_alpha: bool) -> Values:
        facts = self.facts
        nodata = facts.nodata if facts is not None and self.choice.nodata is None else self.choice.nodata
        limits = range_of(self.choice, kind, facts.range if facts else None, self.name)
        return Values(kind, own_alpha, limits, held(nodata, kind), not_a_number=kind.kind == "f")

    def _put(self, image: Any, values: Values, *, linear: bool) -> Any:
        bands = image.bands - values.own_alpha
        colours = image.extract_band(0, n=bands)
        shown = colours if values.range is None else _mapped(colours, values.range, linear=linear)
        if (alpha := _alpha(image, colours, values)) is not None:
            shown = shown.bandjoin(alpha.cast(shown.format))
        kind = {1: ("b-w", "grey16"), 3: ("srgb", "rgb16")}[bands][values.dtype == "uint16"]
        return shown.copy(interpretation=kind)


def _alpha(image: Any, colours: Any, values: Values) -> Any:
    """The band of alpha, or None where there is none."""
    hidden = (colours != colours).bandor() if values.not_a_number else None  # NaN differs from itself
    if values.nodata is not None:
        equal = (colours == values.nodata).bandand()
        hidden = equal if hidden is None else hidden | equal
    if not values.own_alpha:
        shown = None if hidden is None else hidden.invert()  # truths are 0 and 255
        return shown if shown is None or values.dtype == "uint8" else shown.cast("ushort") * (TOP // 255)
    alpha = image[colours.bands]
    if values.range is not None:
        opaque = 1 if values.kind.kind == "f" else np.iinfo(values.kind).max
        alpha = _clipped(alpha.cast("double") * (TOP / opaque)).rint().cast("ushort")
    return alpha if hidden is None else hidden.ifthenelse(0, alpha)


def _mapped(colours: Any, limits: tuple[float, float], *, linear: bool) -> Any:
    low, high = limits
    # In two steps, each rounded once, as NumPy does it.
    scaled = _clipped((colours.cast("double") - low) * (TOP / (high - low)))
    if linear:
        unit = scaled / TOP
        scaled = (unit <= 0.0031308).ifthenelse(unit * 12.92, (unit ** (1 / 2.4)) * 1.055 - 0.055) * TOP
    return scaled.rint().cast("ushort")


def _clipped(scaled: Any) -> Any:
    """To 0 … TOP; 0 for what is no number."""
    known = (scaled >= 0).ifthenelse(scaled, 0)
    return (known > TOP).ifthenelse(TOP, known)

"""Style images: what methods for arbitrary styles are given at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.allocator import return_freed_memory
from urst_tiles.errors import InputError
from urst_tiles.networks.freezing import replace_norms
from urst_tiles.networks.lean import lean
from urst_tiles.networks.moments import Covariance, Moments
from urst_tiles.networks.normalization import Leaf, frozen_norm, is_norm, measure, neutral_moments, observe
from urst_tiles.networks.whitening import matrix_power
from urst_tiles.sources.pictures import read_rgb

__all__ = [
    "STYLE_SIDE",
    "StyleImage",
    "StylePass",
    "Styling",
    "as_encoded",
    "parse_style",
    "read_styles",
    "recoloured",
]

STYLE_SIDE = 1024
"""Side in pixels of a style image, as in the paper: short side to this, centre cropped."""


@dataclass(frozen=True, slots=True, eq=False)
class StyleImage:
    """One style, and its share."""

    pixels: NDArray[np.uint8]
    # (H, W, 3) RGB
    weight: float
    # of all style images together: 1

    @property
    def tensor(self) -> Tensor:
        """(1, 3, H, W) float32 in [0, 1]."""
        return torch.from_numpy(self.pixels).permute(2, 0, 1)[None].float() / 255


@dataclass(frozen=True, slots=True, eq=False)
class StylePass:
    """What the style images went through when a network was built, and how large they were: what that took is told
    from it."""

    encoders: tuple[nn.Module, ...]
    # one after another, each on the image itself
    height: int
    # of the largest image, in pixels
    width: int


@dataclass(frozen=True, slots=True)
class Styling:
    """All that is chosen about a style at run time."""

    images: tuple[StyleImage, ...] = ()
    alpha: float = 1.0
    # strength in [0, 1]

    def mixed(self, encoder: nn.Module, measured: Callable[[Any], Sequence[Tensor]]) -> list[Tensor]:
        """``measured(encoder(image))`` of each style image, (1, 3, H, W) in [0, 1], as weighted means in float64.

        Exact wherever the network is linear in what is measured: means, deviations, colourings, Gram matrices. Feature
        maps are dropped as soon as nothing reads them; the layout of the encoder's weights changes.
        """
        sums: list[Tensor] | None = None
        # What is held here is part of what a run promises, and comes before it.
        return_freed_memory()
        encode = as_encoded(encoder)
        with torch.inference_mode():
            for image in self.images:
                parts = [image.weight * part.double() for part in measured(encode(image.tensor))]
                sums = parts if sums is None else [one + other for one, other in zip(sums, parts, strict=True)]
        if sums is None:
            raise InputError("a style image is needed (--style FILE)")
        return [part.clone() for part in sums]

    def through(self, *encoders: nn.Module) -> StylePass | None:
        """What these images went through; None where there are none."""
        if not self.images:
            return None
        largest = max((image.pixels for image in self.images), key=lambda pixels: pixels.size)
        return StylePass(encoders, *largest.shape[:2])

    def recoloured(self, content: NDArray[Any]) -> Styling:
        """With each style image in the colours of the content, (H, W, 3) uint8 or uint16."""
        images = tuple(replace(image, pixels=recoloured(image.pixels, content)) for image in self.images)
        return replace(self, images=images)


class _OwnNorm(Leaf):
    """A norm that normalises with its input's own statistics, and holds no copy of its input meanwhile."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = frozen_norm(self.norm, measure(self.norm, observe(self.norm, x))).to(x)(x)
        return y


def as_encoded(encoder: nn.Module, *, neutral: bool = False) -> nn.Module:
    """The encoder as style images go through it. The weights are its own, their layout changes.

    ``neutral`` puts constants in the place of its norms: for recording its graph.
    """

    def make(norm: nn.Module, moments: Moments) -> nn.Module:
        return frozen_norm(norm, moments) if neutral else _OwnNorm(norm)

    moments = {name: neutral_moments(layer) for name, layer in encoder.named_modules() if is_norm(layer)}
    return lean(replace_norms(encoder.eval(), moments, make, share=True))


def read_styles(style: Any, side: int = STYLE_SIDE) -> tuple[StyleImage, ...]:
    """Style images from what a user gives: a path or an array, a pair of one and its weight, or a list of those.

    Each is scaled to a short side of ``side`` pixels and cropped to the square in its middle. Weights are divided by
    their sum.

    Raises:
        InputError: a weight is not a positive number, or nothing was given.
        SourceError: a picture cannot be read.
    """
    pairs = list(_pairs(style))
    if not pairs:
        raise InputError("no style image was given")
    for picture, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise InputError(f"the weight of style {_name(picture)} must be a number above 0, not {weight!r}")
    total = sum(weight for _, weight in pairs)
    return tuple(StyleImage(_square(read_rgb(picture, side), side), weight / total) for picture, weight in pairs)


def parse_style(text: str) -> tuple[str, float]:
    """ "FILE" or "FILE:WEIGHT" → (FILE, weight), 1 where none stands there."""
    file, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        return file, float(weight)
    except ValueError:
        return text, 1.0


def recoloured(style: NDArray[np.uint8], content: NDArray[Any]) -> NDArray[np.uint8]:
    """The style image with the content's mean colour and covariance of colours, (H, W, 3) → the same.

    Whitening and colouring of the colours themselves, as in Gatys et al., "Controlling Perceptual Factors in Neural
    Style Transfer", CVPR 2017, section 5.
    """
    own, wanted = _colours(style), _colours(content)
    matrix = matrix_power(wanted.comoment / wanted.count, 0.5, least=0.0) @ matrix_power(
        own.comoment / own.count, -0.5, least=1e-8
    )
    flat = (style.reshape(-1, 3) / 255 - own.mean) @ matrix.T + wanted.mean
    return cast("NDArray[np.uint8]", (flat.clip(0, 1) * 255).round().astype(np.uint8).reshape(style.shape))


def _colours(pixels: NDArray[Any]) -> Covariance:
    scaled = pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
    return Covariance.of(scaled.transpose(2, 0, 1)[None])


def _pairs(style: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(style, StyleImage):
        yield style.pixels, style.weight
    elif isinstance(style, tuple) and len(style) == 2 and not isinstance(style[1], str | Path | tuple | np.ndarray):
        yield style
    elif isinstance(style, list | tuple):
        for entry in style:
            yield from _pairs(entry)
    else:
        yield style, 1.0


def _name(picture: Any) -> str:
    return str(picture) if isinstance(picture, str | Path) else f"({type(picture).__name__})"


def _square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scaled up to ``side`` where smaller, and the square in the middle."""
    height, width = pixels.shape[:2]
    if min(height, width) != side:
        sides = [max(side, round(length * side / min(height, width))) for length in (height, width)]
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        image = functional.interpolate(image, sides, mode="bilinear", antialias=True, align_corners=False)
        pixels = image[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])

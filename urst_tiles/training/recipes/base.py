"""What the loop knows of a method, and what all methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.geometry import Window
from urst_tiles.styles import StyleCard
from urst_tiles.training import losses
from urst_tiles.training.data import Batch

__all__ = ["Recipe", "halved", "middle", "mixed", "stroke_between"]


class Recipe(Protocol):
    """A method's own part of a training. The loop knows nothing else of it."""

    name: str
    # the method's, as load_network takes it
    stroke_layer: str
    # where strokes are compared

    @property
    def network(self) -> nn.Module:
        """What a checkpoint holds. Those of its parameters that require a gradient are trained."""
        ...

    def prepare(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Constants that are measured once, on the first crops, and then kept with the checkpoint. Crops that are not
        asked for are not cut."""
        ...

    def terms(self, batch: Batch, constants: Mapping[str, float], *, stroke: bool) -> dict[str, Tensor]:
        """The terms of the loss by name, not weighted yet: float32 scalars. ``stroke`` asks for the stroke perceptual
        term."""
        ...

    def preview(self, photo: Tensor, style: Tensor | None) -> list[Tensor]:
        """Pictures of one row, from left to right: (1, 3, side/2, side/2) each. The last one is stylised at full size
        with the thumbnail's statistics: it shows the strokes of a large result.

        ``photo`` is (1, 3, side, side) float32 in [0, 1], side a multiple of 16; ``style`` (1, 3, side/2, side/2), for
        methods that take one.
        """
        ...

    def save(self, path: Path, card: StyleCard | None) -> None:
        """Write what was trained as a file that load_network takes. ``card`` says what is known of the painting, for
        methods that learn one.

        Raises:
            NetworkError: it cannot be written.
        """
        ...


def stroke_between(
    look: Callable[[Tensor], Tensor], patch: Tensor, output: Tensor, place: Window, divisor: float = 1.0
) -> Tensor:
    """The stroke perceptual loss of a stylised patch against its stylised thumbnail, whatever the method.

    ``look`` gives the features that are compared. Gradients flow through ``patch`` alone.
    """
    target = losses.stroke_target(output, place)
    with torch.no_grad():
        wanted = look(target)
    return losses.stroke_perceptual_loss(look(patch), wanted, divisor)


def mixed(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Convolutions inside this block are computed in ``precision``; weights keep their type."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def halved(photo: Tensor) -> Tensor:
    """The thumbnail of a crop, as the sampler makes it."""
    return functional.interpolate(photo, scale_factor=0.5, mode="bilinear", align_corners=False)


def middle(image: Tensor) -> Tensor:
    """The middle of a square of half the side."""
    half, quarter = image.shape[-1] // 2, image.shape[-1] // 4
    return image[..., quarter : quarter + half, quarter : quarter + half]

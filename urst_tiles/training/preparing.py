"""What a training needs before its first step: the network, what it is compared with, and where its files go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from urst_tiles.errors import InputError
from urst_tiles.training.any_style import AnyStyle, prepare_any_style
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import CropSampler, PhotoFolder
from urst_tiles.training.devices import chosen_device, chosen_precision
from urst_tiles.training.one_style import prepare_one_style
from urst_tiles.training.recipes import Recipe
from urst_tiles.training.vgg import PixelRange

__all__ = ["Given", "Prepared", "prepare"]

_LARGEST = 4
"""Photos are read at most this many crops wide: a crop is at most three wide, and there must be places to choose
from."""


@dataclass(frozen=True, slots=True)
class Given:
    """The files of a training."""

    photos: str | Path
    style: str | Path
    out: Path
    vgg: str | Path | None
    encoder: str | Path | None
    pixels: PixelRange | Literal["auto"]
    start: str | Path | None

    def check(self, config: TrainingConfig) -> None:
        """Raises InputError where these are not the files that the method wants."""
        method = config.method
        if self.out.suffix != ".safetensors":
            raise InputError(
                f"a style is written as a safetensors file: {self.out.with_suffix('.safetensors')}, not {self.out}"
            )
        if config.any_style and self.encoder is None:
            raise InputError(f"method {method!r} needs the weights of its VGG encoder (--encoder vgg_normalised.pth)")
        if config.any_style and self.vgg is not None:
            raise InputError(f"method {method!r} takes no --vgg: its encoder is its loss network; give it as --encoder")
        if self.vgg is None and self.encoder is None:
            raise InputError(
                f"method {method!r} needs the weights of a loss network (--vgg vgg19.pth, --encoder vgg_normalised.pth "
                "or both)"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A training that can begin, or go on."""

    recipe: Recipe
    photos: PhotoFolder
    config: TrainingConfig
    device: torch.device
    facts: dict[str, str]
    # what decides the result beside the config: hashes of painting, loss network, first weights and photo names
    folder: Path
    # for checkpoint, previews and the loss curve
    any_style: AnyStyle | None
    # of methods for any style: their paintings

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def sampler(self) -> CropSampler:
        config, styles = self.config, self.any_style.sampler if self.any_style else None
        return CropSampler(
            self.photos, crop=config.crop, batch=config.batch, seed=config.seed, noise=config.noise, styles=styles
        )


def prepare(
    given: Given,
    config: TrainingConfig,
    *,
    on_skip: Callable[[Path, str], None],
    on_painting_skip: Callable[[Path, str], None],
) -> Prepared:
    """Read everything but the photos' and many paintings' pixels. See :func:`~urst_tiles.training.styles.train_style`
    for errors."""
    given.check(config)
    photos = PhotoFolder(given.photos, largest=_LARGEST * config.crop, hold_out=config.hold_out, on_skip=on_skip)
    device = chosen_device(config.device)
    precision = chosen_precision(config.precision, device)
    facts = {
        "photos": hashlib.sha256("\0".join(path.name for path in photos.paths).encode()).hexdigest(),
        "precision": str(precision).removeprefix("torch."),
    }
    recipe: Recipe
    any_style = None
    if config.any_style and given.encoder is not None:
        any_style = prepare_any_style(
            given.style, given.encoder, given.start, config, device, precision, on_skip=on_painting_skip
        )
        recipe, more = any_style.recipe, any_style.facts
    else:
        recipe, more = prepare_one_style(
            given.style, given.vgg, given.encoder, given.pixels, given.start, config, device, precision
        )
    return Prepared(recipe, photos, config, device, {**facts, **more}, _working_folder(given.out), any_style)


def _working_folder(target: Path) -> Path:
    place = target.with_suffix(".training")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write beside {target}: {error.strerror or error}") from error
    return place

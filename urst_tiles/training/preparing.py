"""What a training needs before its first step: the network, what it is compared with, and where its files go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import load_network, state_dict_hash
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import CropSampler, PhotoFolder
from urst_tiles.training.devices import chosen_device, chosen_precision
from urst_tiles.training.painting import read_painting
from urst_tiles.training.recipes import JohnsonRecipe, johnson_network
from urst_tiles.training.vgg import PixelRange, load_loss_network

__all__ = ["Prepared", "prepare"]

_LARGEST = 4
"""Photos are read at most this many crops wide: a crop is at most three wide, and there must be places to choose
from."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A training that can begin, or go on."""

    recipe: JohnsonRecipe
    photos: PhotoFolder
    config: TrainingConfig
    device: torch.device
    facts: dict[str, str]
    # what decides the result beside the config: hashes of painting, loss network, first weights and photo names
    folder: Path
    # for checkpoint, previews and the loss curve

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def sampler(self) -> CropSampler:
        config = self.config
        return CropSampler(self.photos, crop=config.crop, batch=config.batch, seed=config.seed, noise=config.noise)


def prepare(
    photos: str | Path,
    style: str | Path,
    out: Path,
    *,
    vgg: str | Path,
    pixels: PixelRange | Literal["auto"],
    config: TrainingConfig,
    start: str | Path | None,
    on_skip: Callable[[Path, str], None],
) -> Prepared:
    """Read everything but the photos' pixels. See :func:`~urst_tiles.training.styles.train_style` for parameters and
    errors."""
    folder = PhotoFolder(photos, largest=_LARGEST * config.crop, hold_out=config.hold_out, on_skip=on_skip)
    device = chosen_device(config.device)
    precision = chosen_precision(config.precision, device)
    loss_network = load_loss_network(vgg, pixels=pixels)
    painting = read_painting(style, config.style_size, config.style_median)
    facts = {
        "loss network": state_dict_hash(loss_network.state_dict()),
        "painting": hashlib.sha256(painting.numpy().tobytes()).hexdigest(),
        "photos": hashlib.sha256("\0".join(path.name for path in folder.paths).encode()).hexdigest(),
        "precision": str(precision).removeprefix("torch."),
        "start": "",
    }
    network: nn.Module = johnson_network(config)
    if start is not None:
        facts["start"] = _begin_with(network, start)
    # Channels last: convolutions of few channels are half as slow on a CPU.
    for module in (loss_network.to(device, precision), network.to(device)):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = JohnsonRecipe(network, loss_network, painting.to(device), config)
    return Prepared(recipe, folder, config, device, facts, _working_folder(out))


def _begin_with(network: nn.Module, start: str | Path) -> str:
    """Load weights of another style; returns their hash."""
    loaded = load_network(JohnsonRecipe.name, start)
    own, given = network.state_dict(), loaded.module.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in given.items()}:
        raise NetworkError(
            f"{start} is a network of another width or depth than the one to be trained; they must be alike"
        )
    if not all(torch.allclose(own[name], given[name]) for name in own if name.startswith("range_")):
        raise NetworkError(f"{start} was trained with another value range than the network to be trained")
    network.load_state_dict(given)
    return loaded.weights_hash


def _working_folder(target: Path) -> Path:
    place = target.with_suffix(".training")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write beside {target}: {error.strerror or error}") from error
    return place

"""Preparing a network for one painting."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks import load_network, state_dict_hash
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.painting import read_painting
from urst_tiles.training.recipes import JohnsonRecipe, johnson_network
from urst_tiles.training.vgg import PixelRange, load_loss_network

__all__ = ["prepare_one_style"]


def prepare_one_style(
    style: str | Path,
    vgg: str | Path | None,
    encoder: str | Path | None,
    pixels: PixelRange | Literal["auto"],
    start: str | Path | None,
    config: TrainingConfig,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[JohnsonRecipe, dict[str, str]]:
    """The recipe, and hashes of what decides the result."""
    loss_network = load_loss_network(vgg, pixels=pixels, encoder=encoder)
    painting = read_painting(style, config.style_size, config.style_median)
    facts = {
        "loss network": state_dict_hash(loss_network.state_dict()),
        "painting": hashlib.sha256(painting.numpy().tobytes()).hexdigest(),
        "start": "",
    }
    network: nn.Module = johnson_network(config)
    if start is not None:
        facts["start"] = _begin_with(network, start)
    # Channels last: convolutions of few channels are half as slow on a CPU.
    for module in (loss_network.to(device, precision), network.to(device)):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return JohnsonRecipe(network, loss_network, painting.to(device), config), facts


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

"""Preparing the decoder of a method for any style."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks import read_weights, state_dict_hash
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import StyleSampler
from urst_tiles.training.encoders import load_encoder, untrained_decoder
from urst_tiles.training.folders import PaintingFolder
from urst_tiles.training.recipes import AdaINRecipe, LinearWCTRecipe
from urst_tiles.training.recipes.adain import AdaINTrained
from urst_tiles.training.recipes.arbitrary import ArbitraryRecipe
from urst_tiles.training.recipes.linear_wct import LinearWCTTrained

__all__ = ["AnyStyle", "prepare_any_style"]


@dataclass(frozen=True, slots=True, eq=False)
class AnyStyle:
    """What a method for any style has beside its photos."""

    recipe: ArbitraryRecipe
    paintings: PaintingFolder
    sampler: StyleSampler
    facts: dict[str, str]
    # hashes of what decides the result

    @property
    def decoder(self) -> str:
        """The level that the decoder begins at: "relu4_1"."""
        return self.recipe.deepest


def prepare_any_style(
    paintings: str | Path,
    encoder: str | Path,
    start: str | Path | None,
    config: TrainingConfig,
    device: torch.device,
    precision: torch.dtype,
    *,
    on_skip: Callable[[Path, str], None],
) -> AnyStyle:
    """Encoder, untrained decoder and paintings."""
    folder = PaintingFolder(paintings, largest=config.style_size, hold_out=config.hold_out, on_skip=on_skip)
    sampler = StyleSampler(folder, side=config.crop // 2, batch=config.batch, seed=config.seed)
    recipe = _recipe(encoder, config, precision)
    facts = {
        "encoder": state_dict_hash(recipe.network.encoder.state_dict()),
        "paintings": hashlib.sha256("\0".join(path.name for path in folder.paths).encode()).hexdigest(),
        "start": "" if start is None else _begin_with(recipe.network, config.method, start),
    }
    # Channels last: convolutions are quicker so on a CPU.
    recipe.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AnyStyle(recipe, folder, sampler, facts)


def _recipe(path: str | Path, config: TrainingConfig, precision: torch.dtype) -> ArbitraryRecipe:
    encoder = load_encoder(path)
    decoder = untrained_decoder(encoder, config.seed)
    if config.method == "adain":
        return AdaINRecipe(AdaINTrained(encoder, decoder), config, precision)
    return LinearWCTRecipe(LinearWCTTrained(encoder, decoder, config.seed), config, precision)


def _begin_with(network: nn.Module, method: str, start: str | Path) -> str:
    """Load trained weights of the same method; returns their hash."""
    own, given = network.state_dict(), read_weights(method, start)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in given.items()}:
        raise NetworkError(
            f"{start} is a network of another depth or width than the one to be trained; they must be alike"
        )
    if not all(torch.allclose(own[name], given[name]) for name in own if name.startswith("encoder.")):
        raise NetworkError(f"{start} was trained with another encoder than the one given")
    network.load_state_dict(given)
    return state_dict_hash(given)

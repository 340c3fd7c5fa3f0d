"""Huang, Belongie: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017.

::

    VGG19 down to relu4_1 → AdaIN with the style image's means and deviations → decoder

The published weights end at relu4_1. A decoder for another level of VGG (relu3_1, say) makes a network of that depth:
its number of convolutions tells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.adaptive import AdaptiveInstanceNorm2d, standard_deviation
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.moments import Moments
from urst_tiles.networks.renaming import cleaned, part_of
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.vgg import (
    decoder_positions,
    encoder_positions,
    level,
    nearest_depth,
    random_vgg,
    renamed,
    vgg_decoder,
    vgg_encoder,
)
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["METHOD", "AdaINNetwork"]

_EXTENSION = r"\.(pth|pth\.tar|pt|safetensors|t7)"
_ALL_OF_VGG = 16
"""3x3 convolutions in the published encoder's file, of which the first 9 are used."""


class AdaINNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of what the encoder pools by.

    Parameters:
        encoder, decoder: see :mod:`urst_tiles.networks.vgg`.
        norm: carries the style.
    """

    def __init__(self, encoder: nn.Sequential, norm: AdaptiveInstanceNorm2d, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.norm, self.decoder = encoder, norm, decoder

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.norm(self.encoder(x)))
        return y


class _Parts(NamedTuple):
    encoder: nn.Sequential
    decoder: nn.Sequential


def _read(files: WeightFiles) -> dict[str, Tensor]:
    found = files.find({"encoder": "vgg.*" + _EXTENSION, "decoder": ".*decoder.*" + _EXTENSION})
    loaded = {part: cleaned(load_state_dict(path)) for part, path in found.items()}
    state = _cut(loaded["encoder"], loaded["decoder"], str(found["encoder"]), str(found["decoder"]))
    _parts(state, f"{found['encoder']} and {found['decoder'].name}")
    return state


def _cut(encoder: State, decoder: State, encoder_source: str, decoder_source: str) -> dict[str, Tensor]:
    """The decoder, and as much of the encoder as it is the mirror of."""
    depth = nearest_depth(decoder)
    upper = renamed(
        decoder,
        {name: f"decoder.{name}" for name in decoder_positions(depth)},
        what=f"an AdaIN decoder from {level(depth)}",
        source=decoder_source,
    )
    lower = renamed(
        encoder,
        {name: f"encoder.{name}" for name in encoder_positions(depth)},
        what=f"a VGG encoder down to {level(depth)}, where the decoder begins",
        source=encoder_source,
        spare=encoder_positions(_ALL_OF_VGG),
    )
    return lower | upper


def _parts(state: State, source: str = "these weights") -> _Parts:
    surplus = [name for name in state if not name.startswith(("encoder.", "decoder."))]
    if surplus:
        raise NetworkError(f"{source} are not of an AdaIN network: {surplus[0]} is neither encoder.… nor decoder.…")
    whole = _cut(part_of(state, "encoder."), part_of(state, "decoder."), source, source)
    encoder = vgg_encoder(part_of(whole, "encoder."), ceil_mode=True, source=f"the encoder of {source}")
    channels = next(layer.out_channels for layer in reversed(encoder) if isinstance(layer, nn.Conv2d))
    return _Parts(
        encoder, vgg_decoder(part_of(whole, "decoder."), channels=channels, source=f"the decoder of {source}")
    )


def _build(state: State, styling: Styling) -> StyleNetwork:
    encoder, decoder = _parts(state)

    def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
        moments = Moments.of(features)
        return torch.tensor(moments.mean), standard_deviation(moments)

    mean, std = styling.mixed(encoder, statistics)
    network = AdaINNetwork(encoder, AdaptiveInstanceNorm2d(mean, std, styling.alpha), decoder)
    return StyleNetwork(
        "adain",
        network,
        title="Huang and Belongie 2017",
        licence=METHOD.licence,
        style_pass=styling.through(encoder),
    )


def _sample(seed: int) -> dict[str, Tensor]:
    return random_vgg((3, 4, 4, 5, 6, 6, 6, 6, 8), torch.Generator().manual_seed(seed))


METHOD = Method(
    paper="Huang and Belongie, ICCV 2017",
    summary="any style image; channel means and deviations of VGG features",
    read=_read,
    build=_build,
    sample=_sample,
    files="two files: the VGG encoder (vgg_normalised.pth) and a decoder (decoder.pth, or "
    "decoder_stroke_perceptual_loss_1.pth.tar of URST)",
    published="https://github.com/naoto0804/pytorch-AdaIN (releases), "
    "https://github.com/xunhuang1995/AdaIN-style (.t7) and https://github.com/czczup/URST",
    licence="MIT (pytorch-AdaIN), Apache-2.0 (URST); of the VGG weights: not stated",
    takes_style=True,
    takes_alpha=True,
)

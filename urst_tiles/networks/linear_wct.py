"""Li, Liu, Kautz, Yang: "Learning Linear Transformations for Fast Image and Video Style Transfer", CVPR 2019.

::

    VGG19 → x - mean(t) → compress → T → unzip → + mean(s) → decoder

    T = S(s) C(t)          S, C = fc(vec(Gram(convs(features - their mean))))          Gram = X Xᵀ / pixels

t is the content's thumbnail, s the style image. T is a matrix of few channels (32), between two 1x1 convolutions. The
published weights come for features of relu4_1 ("r41") and of relu3_1 ("r31").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.linear_transform import LinearTransform, MatrixNetwork, SubtractMean
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.moments import Covariance, Moments
from urst_tiles.networks.normalization import ChannelAffine
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

__all__ = ["METHOD", "random_linear_wct"]

_EXTENSION = r"\.(pth|pth\.tar|pt|safetensors)"
_DEPTHS = {"r31": 5, "r41": 9}
"""3x3 convolutions of the encoder, by what published files are named after."""

_MATRICES = (
    *(f"{net}.{layer}" for net in ("snet", "cnet") for layer in ("convs.0", "convs.2", "convs.4", "fc")),
    "compress",
    "unzip",
)


class _Parts(NamedTuple):
    encoder: nn.Sequential
    decoder: nn.Sequential
    snet: MatrixNetwork
    cnet: MatrixNetwork
    compress: nn.Conv2d
    unzip: nn.Conv2d


def _read(files: WeightFiles) -> dict[str, Tensor]:
    name = _layer(files)
    wanted = {"encoder": f"vgg_?{name}", "decoder": f"dec_?{name}.*", "transformation": name}
    found = files.find({part: pattern + _EXTENSION for part, pattern in wanted.items()})
    encoder, decoder, matrices = (cleaned(load_state_dict(found[part])) for part in wanted)
    depth, where = _DEPTHS[name], level(_DEPTHS[name])
    lower = {f"conv{i}": f"encoder.{place}" for i, place in enumerate(encoder_positions(depth), 1)}
    upper = {f"conv{i}": f"decoder.{place}" for i, place in enumerate(decoder_positions(depth), depth + 2)}
    state = {
        **renamed(encoder, lower, what=f"LinearWCT's encoder down to {where}", source=str(found["encoder"])),
        **renamed(decoder, upper, what=f"LinearWCT's decoder from {where}", source=str(found["decoder"])),
        **renamed(
            matrices,
            {layer: layer for layer in _MATRICES},
            what=f"LinearWCT's transformation at {where}",
            source=str(found["transformation"]),
        ),
    }
    _parts(state, f"{found['encoder']}, {found['decoder'].name} and {found['transformation'].name}")
    return state


def _layer(files: WeightFiles) -> str:
    """ "r41" or "r31": which the transformation's file is for."""
    named = [name for name in _DEPTHS if files.matching(name + _EXTENSION)]
    if len(named) > 1:
        raise NetworkError(
            f"there are LinearWCT weights for {' and for '.join(named)}; name the three files of one: "
            "vgg_r41.pth, dec_r41.pth, r41.pth"
        )
    return named[0] if named else "r41"


def _parts(state: State, source: str = "these weights") -> _Parts:
    """The layers, of weights by this package's names.

    Raises:
        NetworkError: tensors are missing, left over, or of shapes that do not fit together.
    """
    depth = nearest_depth(part_of(state, "decoder."))
    places = {
        **{f"encoder.{place}": f"encoder.{place}" for place in encoder_positions(depth)},
        **{f"decoder.{place}": f"decoder.{place}" for place in decoder_positions(depth)},
        **{layer: layer for layer in _MATRICES},
    }
    state = renamed(state, places, what=f"LinearWCT at {level(depth)}", source=source)
    channels = int(state[f"encoder.{encoder_positions(depth)[-1]}.weight"].shape[0])
    width = int(state["compress.weight"].shape[0])
    parts = _Parts(
        encoder=vgg_encoder(part_of(state, "encoder."), ceil_mode=False, source=f"the encoder of {source}"),
        decoder=vgg_decoder(part_of(state, "decoder."), channels=channels, source=f"the decoder of {source}"),
        snet=MatrixNetwork(channels, _widths(state, "snet", width)),
        cnet=MatrixNetwork(channels, _widths(state, "cnet", width)),
        compress=nn.Conv2d(channels, width, 1),
        unzip=nn.Conv2d(width, channels, 1),
    )
    for part in ("snet", "cnet", "compress", "unzip"):
        _fill(getattr(parts, part), part_of(state, f"{part}."), f"{source}: {part}")
    return parts


def _widths(state: State, net: str, width: int) -> tuple[int, int, int]:
    return int(state[f"{net}.convs.0.weight"].shape[0]), int(state[f"{net}.convs.2.weight"].shape[0]), width


def _fill(module: nn.Module, state: State, source: str) -> None:
    for name, expected in module.state_dict().items():
        if state[name].shape != expected.shape:
            raise NetworkError(
                f"{source}.{name} has shape {tuple(state[name].shape)} where {tuple(expected.shape)} fits the rest"
            )
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})


def _build(state: State, styling: Styling) -> StyleNetwork:
    parts = _parts(state)

    def style(features: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(Moments.of(features).mean)
        seen = parts.snet.convs(features - mean.to(features)[:, None, None])
        return mean, parts.snet.matrix(Covariance.of(seen))

    mean, matrix = styling.mixed(parts.encoder, style)
    module = nn.Sequential(
        OrderedDict[str, nn.Module](
            encoder=parts.encoder,
            centre=SubtractMean(len(mean)),
            transform=LinearTransform(matrix, parts.cnet, parts.compress),
            unzip=parts.unzip,
            style_mean=ChannelAffine(torch.ones_like(mean).float(), mean.float()),
            decoder=parts.decoder,
        )
    )
    return StyleNetwork(
        "linear-wct",
        module,
        title="Li et al. 2019",
        licence=METHOD.licence,
        style_pass=styling.through(parts.encoder),
    )


def random_linear_wct(widths: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Random weights, for a VGG whose 3x3 convolutions have these widths. Matrices are 4 x 4, and near to 1."""
    generator = torch.Generator().manual_seed(seed)
    state = random_vgg(widths, generator)
    channels, size = widths[-1], 4
    for net in ("snet", "cnet"):
        for layer, outputs, inputs in (("convs.0", 6, channels), ("convs.2", 5, 6), ("convs.4", size, 5)):
            std = (2 / (inputs * 9)) ** 0.5
            state[f"{net}.{layer}.weight"] = std * torch.randn(outputs, inputs, 3, 3, generator=generator)
            state[f"{net}.{layer}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        state[f"{net}.fc.weight"] = 0.25 * torch.randn(size**2, size**2, generator=generator)
        state[f"{net}.fc.bias"] = (torch.eye(size) + 0.2 * torch.randn(size, size, generator=generator)).flatten()
    for layer, outputs, inputs in (("compress", size, channels), ("unzip", channels, size)):
        state[f"{layer}.weight"] = torch.randn(outputs, inputs, 1, 1, generator=generator) / inputs**0.5
        state[f"{layer}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return state


METHOD = Method(
    paper="Li et al., CVPR 2019",
    summary="any style image; a learned linear transformation of VGG features",
    read=_read,
    build=_build,
    sample=lambda seed: random_linear_wct((3, 4, 4, 5, 6, 6, 6, 6, 8), seed),
    files="three files: vgg_r41.pth, dec_r41.pth and r41.pth, or the same for r31",
    published="https://github.com/sunshineatnoon/LinearStyleTransfer and https://github.com/czczup/URST",
    licence="BSD-2-Clause (LinearStyleTransfer), Apache-2.0 (URST); of the VGG weights: not stated",
    takes_style=True,
)

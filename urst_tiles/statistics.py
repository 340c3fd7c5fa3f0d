"""Statistics: what a thumbnail tells a network. It goes through once, and every norm layer's input is measured.

Each layer is measured after the layers before it were normalised with what was measured of them, so that the
thumbnail's picture is exactly what the frozen network makes of it.

A thumbnail of a panorama may be ten times wider than high. Above ``max_pixels`` it goes window by window instead, in
bounded memory: for each norm layer in turn, with all earlier ones frozen, every window runs up to that layer, and the
moments of the windows' cores are combined. The windows' halo makes their cores equal to the whole's, so both ways
agree.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from fractions import Fraction
from math import isqrt

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.geometry import Tile, plan_tiles
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.lean import lean
from urst_tiles.networks.moments import Moments, Statistics
from urst_tiles.networks.normalization import Leaf, frozen_norm, measure, observe
from urst_tiles.networks.padding import reflected_indices, round_up
from urst_tiles.sources.base import Pixels

__all__ = ["MAX_PIXELS", "Moments", "Statistics", "collect_statistics"]

MAX_PIXELS = 1_600_000
"""Thumbnails up to this run in one piece: 1024 x 1536 px, the usual photo at a short side of 1024."""

_log = logging.getLogger(__name__)


def collect_statistics(network: StyleNetwork, thumbnail: Pixels, *, max_pixels: int = MAX_PIXELS) -> Statistics:
    """Moments of every norm layer of ``network`` over ``thumbnail``.

    ``thumbnail`` is (H, W, 3), (H, W, 1) or (H, W), uint8 or uint16, without alpha. Above ``max_pixels`` pixels it is
    run in windows of about that area, which gives the same moments in bounded memory and takes longer.

    Raises:
        InputError: the thumbnail has another shape or type.
        NetworkError: the network cannot be tiled.
    """
    image = _checked(thumbnail)
    height, width = image.shape[:2]
    if not network.norms:
        return Statistics({}, (width, height))
    image = _extended(image, network)
    collect = _in_one_pass if image.shape[0] * image.shape[1] <= max_pixels else _in_windows
    with torch.inference_mode():
        layers = collect(network, image, max_pixels)
    statistics = Statistics(layers, (width, height))
    if statistics.degenerate:
        _log.warning(
            "the thumbnail is almost blank: %d of %d norm layers have no statistics to speak of",
            len(statistics.degenerate),
            len(statistics),
        )
    return statistics


class _Stop(Exception):  # noqa: N818  (not an error: the way out of a forward pass)
    """Everything that was wanted of this pass has been measured."""


class _Meter(Leaf):
    """Stands in for a norm layer: measures its input, then normalises with what it measured."""

    def __init__(self, name: str, norm: nn.Module, layers: dict[str, Moments], *, last: bool) -> None:
        super().__init__()
        self.name, self.norm, self.layers, self.last = name, norm, layers, last

    def forward(self, x: Tensor) -> Tensor:
        self.layers[self.name] = moments = measure(self.norm, observe(self.norm, x))
        if self.last:
            raise _Stop
        y: Tensor = frozen_norm(self.norm, moments).to(x)(x)
        return y


def _in_one_pass(network: StyleNetwork, image: Pixels, _max_pixels: int) -> dict[str, Moments]:
    layers: dict[str, Moments] = {}
    module = copy.deepcopy(network.module)
    for name in network.norms:
        module.set_submodule(name, _Meter(name, module.get_submodule(name), layers, last=name == network.norms[-1]))
    try:
        lean(module)(_tensor(image, network))
    except _Stop:
        return layers
    raise NetworkError(f"the norm layers of {network.name} run in another order on this thumbnail")


class _Probe(Leaf):
    """Stands in for the norm layer in question: hands out its input and ends the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        raise _Stop


def _in_windows(network: StyleNetwork, image: Pixels, max_pixels: int) -> dict[str, Moments]:
    layers: dict[str, Moments] = {}
    module = copy.deepcopy(network.module)
    tiles = _tiles(network, image, max_pixels)
    for name in network.norms:
        norm, probe = module.get_submodule(name), _Probe()
        module.set_submodule(name, probe)
        total: Moments | None = None
        for moments in _of_windows(network, lean(module), norm, probe, image, tiles):
            total = moments if total is None else total + moments
        if total is None:
            raise NetworkError(f"norm layer {name} of {network.name} did not run on this thumbnail")
        layers[name] = total
        module.set_submodule(name, frozen_norm(norm, total).to(network.device, network.dtype))
    return layers


def _of_windows(
    network: StyleNetwork, module: nn.Module, norm: nn.Module, probe: _Probe, image: Pixels, tiles: list[Tile]
) -> Iterator[Moments]:
    """Moments of each window's core at the probe."""
    for tile in tiles:
        window = image[tile.window.slices]
        try:
            module(_tensor(window, network))
        except _Stop:
            features = observe(norm, probe.seen.pop())
            rows = _at_pitch(tile.crop.row_off, tile.crop.row_end, window.shape[0], features.shape[-2], network.stride)
            cols = _at_pitch(tile.crop.col_off, tile.crop.col_end, window.shape[1], features.shape[-1], network.stride)
            yield measure(norm, features[..., rows, cols])
            del features


def _at_pitch(start: int, end: int, pixels: int, positions: int, stride: int) -> slice:
    """The part of a feature map that a part of the window became."""
    density = Fraction(positions, pixels)
    if (density * stride).denominator != 1:
        raise NetworkError(
            f"a norm layer sees {positions} positions for a window of {pixels} px: its feature map does not lie "
            "on the image's grid, so that a large thumbnail cannot be measured in windows. Use a smaller thumbnail"
        )
    return slice(int(start * density), int(end * density))


def _tiles(network: StyleNetwork, image: Pixels, max_pixels: int) -> list[Tile]:
    """Windows of about ``max_pixels``, and never so small that less than a quarter of each is core."""
    halo, stride = network.halo, network.stride
    side = max(isqrt(max_pixels) // stride * stride, 4 * halo, stride)
    shards = plan_tiles(image.shape[1], image.shape[0], window=side, halo=halo, stride=stride)
    return [tile for shard in shards for tile in shard.tiles]


def _checked(thumbnail: Pixels) -> Pixels:
    image = thumbnail[..., None] if thumbnail.ndim == 2 else thumbnail
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype not in (np.uint8, np.uint16) or not image.size:
        raise InputError(
            f"a thumbnail is (height, width, 3) or grey, uint8 or uint16, not {thumbnail.shape} of {thumbnail.dtype}; "
            "take alpha off first"
        )
    return image


def _extended(image: Pixels, network: StyleNetwork) -> Pixels:
    """With reflected pixels on the far edges, as FrozenNetwork adds them."""
    for axis in (0, 1):
        side = max(round_up(image.shape[axis], network.stride), network.minimum)
        if side != image.shape[axis]:
            image = image.take(reflected_indices(image.shape[axis], side).numpy(), axis=axis)
    return image


def _tensor(image: Pixels, network: StyleNetwork) -> Tensor:
    """(H, W, 1 or 3) integers → (1, 3, H, W) in [0, 1], in the network's type and on its device."""
    full_scale = float(np.iinfo(image.dtype).max)
    # uint16 has few operations in torch; int32 holds it. One grey band is shown to the network three times.
    whole = torch.from_numpy(np.ascontiguousarray(image, dtype=np.int32)).to(network.device)
    return (whole.permute(2, 0, 1)[None].to(network.dtype) / full_scale).expand(1, 3, -1, -1)

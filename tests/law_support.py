"""Laws of tiling, as checks that the tests of each method call with its networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.networks_support import in_float64, largest_difference, noise, tensor, tiled
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.padding import round_up
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics


def waves(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3): noise on slow waves, something at every scale."""
    y, x = np.mgrid[0:height, 0:width]
    slow = 60 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * np.array([1.0, -0.6, 0.4])
    mixed: NDArray[np.uint8] = (128 + slow + 0.4 * (noise(height, width, seed=seed) - 128.0)).clip(0, 255).astype("u1")
    return mixed


def saved(state: dict[str, Tensor], path: Path) -> WeightFiles:
    torch.save(state, path)
    return WeightFiles.of(path)


def check_tiling(network: StyleNetwork, *, height: int = 37) -> None:
    """Laws 3 and 4, in float64 on an odd image, with two ways of cutting it."""
    exact = in_float64(network)
    pixels = waves(height, 2 * network.halo + 71)
    frozen, image = exact.freeze(collect_statistics(exact, pixels)), tensor(pixels, torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert whole.std() > 0.05
        for core in (4 * network.stride, round_up(network.halo, network.stride)):
            assert largest_difference(tiled(frozen, image, core=core), whole) < 1e-12
        less = tiled(frozen, image, core=network.halo, halo=network.halo - network.stride)
        assert largest_difference(less, whole) > 1e-10


def check_tiling_in_float32(network: StyleNetwork) -> None:
    """Law 3 as it runs."""
    pixels = waves(41, network.halo + 67)
    frozen = network.freeze(collect_statistics(network, pixels))
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert largest_difference(tiled(frozen, tensor(pixels), core=32), whole) < 1e-4


def halo_seen(network: StyleNetwork) -> int:
    """The halo by experiment, whatever the weights: how far one column of NaN spreads, measured from windows' borders
    and rounded up to the stride."""
    stride, side = network.stride, 2 * network.halo + 6 * network.stride
    exact = in_float64(network)
    frozen = exact.freeze(collect_statistics(exact, waves(24, side)))
    net = frozen.module  # without what makes pixels of NaN at the end
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Hardtanh):  # makes numbers of NaN
            net.set_submodule(name, nn.Identity())
    needed = 0
    with torch.inference_mode():
        for column in range(side // 2 // stride * stride, side // 2 // stride * stride + stride):
            image = torch.full((1, 3, 24, side), 0.5, dtype=torch.float64)
            image[..., column] = torch.nan
            hit = net(image).isnan()[0, 0].any(dim=0).nonzero().flatten()
            first, last = int(hit[0]), int(hit[-1])
            left, right = last // stride * stride, round_up(first + 1, stride)
            needed = max(needed, left - column, column + 1 - right)
    return round_up(needed, stride)


def check_freezing(network: StyleNetwork) -> FrozenNetwork:
    """Law 5 with real statistics of the image and of another one; and, as the thumbnail is the image, torch's own
    instance norms agree."""
    pixels, other = waves(45, 59), tensor(waves(31, 33, seed=1), torch.float64)
    exact = in_float64(network)
    statistics = collect_statistics(exact, waves(44, 60))
    frozen, unfrozen = exact.freeze(statistics), exact.normalise_with(statistics)
    with torch.inference_mode():
        own = exact.module(tensor(waves(44, 60), torch.float64)).clamp(0, 1)
        assert largest_difference(frozen(tensor(waves(44, 60), torch.float64)), own) < 1e-9
        for image in (tensor(pixels, torch.float64), other):
            assert largest_difference(frozen(image), unfrozen(image)) < 1e-9
    statistics = collect_statistics(network, pixels)
    frozen, unfrozen = network.freeze(statistics), network.normalise_with(statistics)
    with torch.inference_mode():
        assert largest_difference(frozen(tensor(pixels)), unfrozen(tensor(pixels))) < 1e-4
    return frozen


def check_statistics_in_windows(network: StyleNetwork) -> None:
    exact = in_float64(network)
    pixels = waves(24, 4 * network.halo + 13)
    whole, parts = collect_statistics(exact, pixels), collect_statistics(exact, pixels, max_pixels=1000)
    for name in network.norms:
        assert parts[name].count == whole[name].count
        np.testing.assert_allclose(parts[name].mean, whole[name].mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parts[name].variance, whole[name].variance, rtol=1e-9)


def check_blank_thumbnails(network: StyleNetwork) -> None:
    """Each of many norms in a row amplifies 316 times then, which float64 holds for every picture before the last step
    makes pixels of whatever there is."""
    exact = in_float64(network)
    for level in (0, 119, 255):
        blank = np.full((40, 48, 3), level, np.uint8)
        frozen = exact.freeze(collect_statistics(exact, blank))
        with torch.inference_mode():
            for pixels in (blank, noise(40, 44)):
                assert bool(frozen.module(tensor(pixels, torch.float64)).isfinite().all())

"""Freezing folds every norm away and changes nothing (law 5); windows make up the whole (law 3)."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks_support import (
    in_float64,
    largest_difference,
    needs_shared,
    network_of,
    noise,
    photo,
    statistics_of,
    tensor,
    tiled,
    weights,
)
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import FrozenNetwork, load_network
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.freezing import freeze
from urst_tiles.networks.normalization import ChannelAffine, ThumbnailInstanceNorm2d, is_norm
from urst_tiles.networks.padding import extend, reflected_indices
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import Moments, Statistics, collect_statistics


def frozen_johnson(seed: int = 0) -> FrozenNetwork:
    """Random weights, and the statistics of noise: invented ones would leave most channels dead and prove little."""
    network = untrained(width=4, seed=seed)
    return network.freeze(collect_statistics(network, noise(64, 64, seed=seed)))


def left_over(module: nn.Module) -> list[str]:
    """Layers that freezing should have folded away."""
    return [name for name, layer in module.named_modules() if isinstance(layer, ChannelAffine) or is_norm(layer)]


class Functional(nn.Module):
    """The same kind of layers, called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)
        self.last = nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = torch.nn.functional.interpolate(self.norm(torch.relu(x)), scale_factor=2)
        x = self.last(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"))
        return torch.nn.functional.avg_pool2d(x, 2).relu()


class Residual(nn.Module):
    """A norm before the convolution whose input is read twice: it must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv(self.relu(self.norm(x)))
        return y


class Shared(nn.Module):
    """One convolution used twice, a norm behind one of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(self.conv(x)))
        return y


class Branching(nn.Module):
    """Asks for the size, which a symbolic trace cannot answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 4:
            x = self.norm(self.conv(x))
        return x


def norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


def affine(channels: int) -> nn.Module:
    return ChannelAffine(torch.linspace(0.5, 2.0, channels), torch.linspace(-1.0, 1.0, channels))


def padded(channels: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)]


def out(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 3, 1)


CASES: dict[str, tuple[Callable[[], list[nn.Module]], int]] = {
    # name: layers, and how many scales and shifts must be left
    "conv, norm": (lambda: [nn.Conv2d(3, 3, 3, padding=1), norm(3)], 0),
    "no bias": (lambda: [nn.Conv2d(3, 3, 3, padding=1, bias=False), norm(3), nn.ReLU()], 0),
    "not affine": (lambda: [nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU()], 0),
    "eps": (lambda: [nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3, eps=0.5), nn.ReLU()], 0),
    "grouped": (lambda: [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 3, padding=1, groups=3), norm(3)], 0),
    "transposed": (
        lambda: [nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), norm(6), nn.Conv2d(6, 3, 1)],
        0,
    ),
    "norm, reflect, conv": (lambda: [norm(3), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)], 0),
    "norm, up, replicate, conv": (
        lambda: [norm(3), nn.Upsample(scale_factor=2), nn.ReplicationPad2d(1), nn.Conv2d(3, 3, 3), nn.AvgPool2d(2)],
        0,
    ),
    "norm, grouped conv": (lambda: [nn.Conv2d(3, 4, 1), nn.ReLU(), norm(4), nn.Conv2d(4, 6, 1, groups=2), out(6)], 0),
    "norm, padding_mode": (lambda: [norm(3), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")], 0),
    "norm, zero pad": (lambda: [norm(3), nn.Conv2d(3, 3, 3, padding=1)], 1),
    "norm, relu": (lambda: [norm(3), nn.ReLU(), nn.Conv2d(3, 3, 1)], 1),
    "ranges": (lambda: [affine(3), norm(3), affine(3), *padded(3), affine(3), affine(3)], 0),
    "pre-activation": (lambda: [nn.Conv2d(3, 4, 1), Residual(), nn.Conv2d(4, 3, 1)], 1),
    "batch norm": (lambda: [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), norm(3), nn.Conv2d(3, 3, 1)], 0),
    "up, reflect, conv": (
        lambda: [nn.Conv2d(3, 3, 2, 2), norm(3), nn.Upsample(scale_factor=2), *padded(3)],
        0,
    ),
    "up 3, reflect 2, conv, relu, pad": (
        lambda: [
            nn.Conv2d(3, 3, 3, 3),
            nn.Upsample(scale_factor=3),
            nn.ReflectionPad2d(2),
            nn.Conv2d(3, 3, 5),
            norm(3),
            nn.ReLU(),
            nn.ReflectionPad2d(4),
            nn.Conv2d(3, 3, 9),
        ],
        0,
    ),
    "functional": (lambda: [Functional()], 0),
    "shared": (lambda: [Shared()], 1),
    "branching": (lambda: [Branching()], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_law_5_frozen_equals_unfrozen(name: str) -> None:
    """In float64 to 1e-9, which rounding cannot hide behind, and in float32 to 1e-4."""
    layers, remaining = CASES[name]
    network = network_of(*layers())
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(torch.linspace(-1, 1, 3))
            layer.running_var.copy_(torch.linspace(0.5, 2, 3))
    statistics = statistics_of(network)
    image = tensor(noise(12, 18))
    exact = in_float64(network)
    with torch.inference_mode():
        # Modules, not the networks around them: their clamp would hide what lies outside [0, 1].
        precise = exact.normalise_with(statistics).module(image.double())
        assert largest_difference(exact.freeze(statistics).module(image.double()), precise) < 1e-9
        frozen = network.freeze(statistics)
        assert largest_difference(frozen.module(image), network.normalise_with(statistics).module(image)) < 1e-4
    assert len(left_over(frozen)) == remaining
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in frozen.modules())


def test_freezing_leaves_the_network_as_it_is() -> None:
    network = untrained(width=2)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    network.freeze(statistics_of(network))
    network.normalise_with(statistics_of(network))
    after = network.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_johnson_has_no_norm_and_no_affine_left() -> None:
    network = untrained(width=2)
    frozen = network.freeze(statistics_of(network))
    assert left_over(frozen) == []
    assert not any(isinstance(layer, ThumbnailInstanceNorm2d) for layer in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert {parameter.dtype for parameter in frozen.parameters()} == {torch.float32}


@given(seed=st.integers(0, 2**16), height=st.integers(1, 150), width=st.integers(1, 200), core=st.integers(4, 30))
@settings(max_examples=8, deadline=None)
def test_law_3_tiled_equals_whole(seed: int, height: int, width: int, core: int) -> None:
    frozen = frozen_johnson(seed)
    image = tensor(noise(height, width, seed=seed))
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=4 * core), whole) < 1e-4
        assert height * width < 100 or whole.std() > 0.05  # a flat picture would agree with anything


def test_laws_3_and_5_at_width_8() -> None:
    network = untrained(width=8)
    pixels = noise(150, 202)
    statistics = collect_statistics(network, pixels)
    frozen = network.freeze(statistics)
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert largest_difference(tiled(frozen, tensor(pixels), core=68), whole) < 1e-4
        assert largest_difference(network.normalise_with(statistics)(tensor(pixels)), whole) < 1e-4
    assert whole.std() > 0.1  # not a grey picture, in which everything agrees


@needs_shared
def test_laws_3_and_5_with_real_weights_on_a_real_photo() -> None:
    network = load_network("johnson", weights("johnson/mosaic.pth"))
    pixels = photo(201, 254)
    statistics = collect_statistics(network, pixels)
    frozen = network.freeze(statistics)
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert largest_difference(tiled(frozen, tensor(pixels), core=136), whole) < 1e-4
        # Rounding in float32 moves either network by up to 2e-4 from its float64 self at single pixels; they are the
        # same network in float64, and no 8-bit level apart here.
        unfrozen = network.normalise_with(statistics)(tensor(pixels))
        assert largest_difference(unfrozen, whole) < 5e-4
        assert (unfrozen - whole).abs().mean() < 1e-5
        small, exact = tensor(pixels[:64, :64]).double(), in_float64(network)
        assert largest_difference(exact.freeze(statistics)(small), exact.normalise_with(statistics)(small)) < 1e-9


def test_when_the_thumbnail_is_the_image_torch_agrees() -> None:
    """Oracle: the network as it is, each nn.InstanceNorm2d normalising with the whole image's own statistics."""
    network = in_float64(untrained(width=4))
    pixels = noise(64, 80)
    with torch.inference_mode():
        expected = network.module(tensor(pixels, torch.float64)).clamp(0, 1)
        frozen = network.freeze(collect_statistics(network, pixels))
        assert largest_difference(frozen(tensor(pixels, torch.float64)), expected) < 1e-9


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 37), (3, 5), (8, 8), (9, 4), (13, 30)])
def test_any_size_comes_back_and_is_clamped(height: int, width: int) -> None:
    frozen = frozen_johnson()
    image = tensor(noise(height, width))
    with torch.inference_mode():
        result = frozen(image)
        larger = frozen(extend(image, max(8, height + -height % 4), max(8, width + -width % 4)))
    assert result.shape == image.shape
    assert bool(((result >= 0) & (result <= 1)).all())
    # Rows are added on the far edges only: what was there before comes out the same.
    assert torch.equal(result, larger[..., :height, :width])


def test_far_edge_pixels_do_not_move_the_rest() -> None:
    """A width off the stride: every pixel farther than the halo from the right edge is that of a width that fits."""
    frozen = frozen_johnson()
    image = tensor(noise(8, 160))
    with torch.inference_mode():
        cut, whole = frozen(image[..., :158]), frozen(image)
    assert whole.std() > 0.1
    assert largest_difference(cut[..., : 158 - 56], whole[..., : 158 - 56]) < 1e-5


@given(length=st.integers(1, 9), extra=st.integers(0, 30))
def test_reflection_is_numpys(length: int, extra: int) -> None:
    expected = np.pad(np.arange(length), (0, extra), mode="reflect" if length > 1 else "edge")
    assert reflected_indices(length, length + extra).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["up, reflect, conv", "pre-activation", "functional", "branching"])
def test_frozen_networks_pickle_and_keep_no_state(name: str) -> None:
    network = network_of(*CASES[name][0]())
    frozen = network.freeze(statistics_of(network))
    image = tensor(noise(10, 14))
    with torch.inference_mode():
        first = frozen(image)
        copied = pickle.loads(pickle.dumps(frozen))
        assert isinstance(copied, FrozenNetwork)
        assert (copied.halo, copied.stride, copied.minimum) == (frozen.halo, frozen.stride, frozen.minimum)
        frozen(tensor(noise(22, 18, seed=1)))
        assert torch.equal(frozen(image), first)
        assert torch.equal(copied(image), first)


def test_the_image_given_is_not_written_to() -> None:
    network = network_of(nn.ReLU(), nn.Conv2d(3, 3, 1), norm(3))
    image = tensor(noise(6, 6)) - 0.5
    before = image.clone()
    network.freeze(statistics_of(network))(image)
    load_network("identity").freeze(Statistics({}))(image)
    assert torch.equal(image, before)


def test_identity_returns_what_it_gets() -> None:
    image = tensor(noise(7, 5))
    assert torch.equal(load_network("identity").freeze(Statistics({}))(image), image)


def test_statistics_of_another_network_are_refused() -> None:
    network = untrained(width=2)
    with pytest.raises(NetworkError, match="15 of 15 norm layers are missing"):
        network.freeze(Statistics({}))
    with pytest.raises(NetworkError, match="1 are of another network"):
        network.freeze(Statistics({**statistics_of(network), "more": Moments(1, np.zeros(2), np.ones(2))}))
    with pytest.raises(NetworkError, match="8 channels was given moments of 2"):
        freeze(untrained(width=8).module, statistics_of(network))


def test_norms_are_listed_in_the_order_they_run() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first, self.idle = (nn.InstanceNorm2d(3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x))
            return y

    assert StyleNetwork("crossed", Crossed()).norms == ("first", "second")
    assert len(untrained(width=2).norms) == 15


def test_a_norm_that_has_no_statistics_of_its_own_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.norm(x))
            return y

    class Direct(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.instance_norm(x)

    for module in (Twice(), Direct()):
        with pytest.raises(NetworkError, match=r"its own layer|InstanceNorm2d layer for each"):
            _ = StyleNetwork("odd", module).norms


def test_what_is_no_image_is_refused() -> None:
    frozen = load_network("identity").freeze(Statistics({}))
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(InputError, match=r"\(N, 3, H, W\)"):
            frozen(wrong)

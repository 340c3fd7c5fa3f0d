"""Moments combine (law 6), statistics are values, and a thumbnail in windows gives what the whole thumbnail gives."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.networks_support import (
    in_float64,
    needs_shared,
    network_of,
    noise,
    photo,
    statistics_of,
    tensor,
    weights,
)
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import load_network
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import Moments, Statistics, collect_statistics

FEATURES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 2), st.just(3), st.integers(2, 6), st.integers(1, 6)),
    elements=st.floats(-1e3, 1e3),
)


def close(one: Moments, other: Moments, tolerance: float = 1e-9) -> bool:
    """Equal counts, and means and deviations to ``tolerance`` of the values' size."""
    size = 1 + np.abs(other.mean) + np.sqrt(other.variance)
    return (
        one.count == other.count
        and bool((np.abs(one.mean - other.mean) <= tolerance * size).all())
        and bool((np.abs(one.variance - other.variance) <= tolerance * size**2).all())
    )


@given(FEATURES, st.data())
@settings(max_examples=50, deadline=None)
def test_law_6_parts_combined_are_the_whole(features: NDArray[np.float64], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, features.shape[2] - 1))
    top, bottom = Moments.of(features[:, :, :cut]), Moments.of(features[:, :, cut:])
    whole = Moments.of(features)
    assert close(top + bottom, whole)
    assert close(bottom.combine(top), whole)


@given(FEATURES)
@settings(max_examples=25, deadline=None)
def test_moments_are_numpys(features: NDArray[np.float64]) -> None:
    found = Moments.of(features)
    flat = features.transpose(1, 0, 2, 3).reshape(3, -1)
    assert found.count == flat.shape[1]
    np.testing.assert_allclose(found.mean, flat.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.variance, flat.var(axis=1), rtol=1e-9, atol=1e-6)


def test_moments_far_from_zero_are_summed_in_float64() -> None:
    """Channels around 1e4 with a deviation of 0.01: float32 sums of squares would find noise, or less than nothing."""
    ripple = torch.linspace(-0.01, 0.01, 10_000).reshape(1, 1, 100, 100)
    shifted = ripple.double() + 1e4
    found = Moments.of(shifted)
    assert found.variance[0] == pytest.approx(float(ripple.double().var(correction=0)), rel=1e-6)
    parts = [Moments.of(shifted[:, :, row : row + 7]) for row in range(0, 100, 7)]
    assert sum(parts[1:], start=parts[0]).variance[0] == pytest.approx(found.variance[0], rel=1e-6)


def test_many_channels_at_once_are_measured_in_chunks() -> None:
    features = torch.randn(1, 70, 256, 256)
    found = Moments.of(features)
    np.testing.assert_allclose(found.mean, features.double().mean(dim=(0, 2, 3)).numpy(), atol=1e-12)
    assert len(found.m2) == 70


def test_moments_of_one_constant_pixel() -> None:
    found = Moments.of(np.full((1, 2, 1, 1), 5.0))
    assert (found.count, list(found.mean), list(found.variance)) == (1, [5.0, 5.0], [0.0, 0.0])


def test_values_do_not_change() -> None:
    moments = Moments.of(np.ones((1, 2, 3, 3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        moments.count = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        moments.mean[0] = 1
    layers = {"a": moments}
    statistics = Statistics(layers)
    layers["b"] = moments
    assert list(statistics) == ["a"]
    assert not hasattr(statistics, "__setitem__")


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 3, 4, 4)])
def test_moments_of_no_feature_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="feature map"):
        Moments.of(np.zeros(shape))


def test_moments_that_do_not_fit_are_not_combined() -> None:
    with pytest.raises(InputError, match="3 and of 2 channels"):
        Moments.of(np.ones((1, 3, 2, 2))).combine(Moments.of(np.ones((1, 2, 2, 2))))


def johnson_statistics(seed: int = 0) -> Statistics:
    return collect_statistics(untrained(width=2), noise(32, 40, seed=seed))


def test_statistics_survive_saving_and_pickling(tmp_path: Path) -> None:
    statistics = johnson_statistics()
    path = tmp_path / "statistics.safetensors"
    statistics.save(path)
    loaded = Statistics.load(path)
    assert loaded == statistics
    assert list(loaded) == list(statistics)
    assert loaded.thumbnail == (40, 32)
    assert loaded.hash() == statistics.hash()
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_hash_tells_statistics_apart() -> None:
    one, other = johnson_statistics(), johnson_statistics(seed=1)
    assert one.hash() == johnson_statistics().hash()
    assert one.hash() != other.hash()
    assert one != other
    assert hash(one) == hash(johnson_statistics())


def test_statistics_combine_layer_by_layer() -> None:
    one, other = johnson_statistics(), johnson_statistics(seed=1)
    both = one.combine(other)
    assert all(close(both[name], one[name] + other[name]) for name in one)
    with pytest.raises(InputError, match="different names"):
        one.combine(Statistics({}))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"hello", "json": b"{}"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            Statistics.load(path)
    with pytest.raises(InputError, match="missing"):
        Statistics.load(tmp_path / "missing")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 47), (5, 9)])
def test_the_frozen_network_paints_the_thumbnail_as_it_was_measured(height: int, width: int) -> None:
    """Oracle: hooks on the network as it is, normalising with torch's own instance norm."""
    network = in_float64(untrained(width=2))
    pixels = noise(height, width)
    statistics = collect_statistics(network, pixels)
    rows, cols = max(8, height + -height % 4), max(8, width + -width % 4)
    padded = np.pad(pixels, ((0, rows - height), (0, cols - width), (0, 0)), mode="reflect")
    seen: dict[str, Moments] = {}
    for name in network.norms:

        def measure(_module: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            seen[name] = Moments.of(inputs[0])

        network.module.get_submodule(name).register_forward_pre_hook(measure)
    network.module(tensor(padded, torch.float64))
    assert list(statistics) == list(seen)
    assert all(close(statistics[name], seen[name], 1e-6) for name in seen)


def two_norms() -> StyleNetwork:
    """Halo 8, stride 2: windows of a few pixels."""
    return network_of(
        *(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3, 2), nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
        *(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3), nn.InstanceNorm2d(3, affine=True)),
        *(nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)),
    )


@given(height=st.integers(2, 60), width=st.integers(2, 60), side=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_windows_measure_what_one_pass_measures(height: int, width: int, side: int) -> None:
    pixels = noise(height, width)
    for network, tolerance in ((in_float64(two_norms()), 1e-9), (two_norms(), 1e-6)):
        whole = collect_statistics(network, pixels)
        windows = collect_statistics(network, pixels, max_pixels=side * side)
        assert list(whole) == list(windows)
        assert all(close(windows[name], whole[name], tolerance) for name in whole)
        assert windows.thumbnail == whole.thumbnail == (width, height)


def test_windows_measure_johnson_like_one_pass() -> None:
    network, pixels = untrained(width=2), noise(16, 500)
    whole, windows = collect_statistics(network, pixels), collect_statistics(network, pixels, max_pixels=1)
    assert all(close(windows[name], whole[name], 1e-5) for name in whole)


def test_windows_stay_small_and_whole_thumbnails_run_once() -> None:
    network = two_norms()
    sizes: list[int] = []
    first = network.module.get_submodule("1")
    first.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:].numel()))
    spied = StyleNetwork("spied", Untraced(network.module))
    assert (len(spied.norms), spied.halo, spied.stride) == (2, network.halo, network.stride)
    sizes.clear()
    collect_statistics(spied, noise(50, 300))
    assert sizes == [52 * 302]
    sizes.clear()
    collect_statistics(spied, noise(50, 300), max_pixels=40 * 40)
    assert max(sizes) <= 42 * 42
    assert len(sizes) % 2 == 0
    assert len(sizes) > 20


class Untraced(nn.Module):
    """Keeps a hook inside alive: a branch on the size is what a symbolic trace cannot follow."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.copy(module)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 0:
            return x
        y: Tensor = self.module(x)
        return y


def test_windows_need_feature_maps_on_the_grid() -> None:
    network = network_of(nn.ReflectionPad2d(8), nn.InstanceNorm2d(3), nn.Conv2d(3, 3, 17))
    with pytest.raises(NetworkError, match="smaller thumbnail"):
        collect_statistics(network, noise(60, 60), max_pixels=40 * 40)


def test_grey_and_16_bit_thumbnails() -> None:
    network = untrained(width=2)
    grey = noise(40, 40, bands=1)
    colour = np.repeat(grey, 3, axis=2)
    expected = collect_statistics(network, colour)
    assert collect_statistics(network, grey) == collect_statistics(network, grey[..., 0])
    for same in (grey, grey.astype(np.uint16) * 257):
        found = collect_statistics(network, same)
        assert all(close(found[name], expected[name], 1e-5) for name in expected)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_thumbnail_is_refused(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="thumbnail is"):
        collect_statistics(untrained(width=2), wrong)


@pytest.mark.parametrize("max_pixels", [1_600_000, 100], ids=["one pass", "windows"])
@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_thumbnail_is_finite_and_said(level: int, max_pixels: int, caplog: pytest.LogCaptureFixture) -> None:
    network = untrained(width=2) if max_pixels > 100 else two_norms()
    statistics = collect_statistics(network, np.full((32, 40, 3), level, np.uint8), max_pixels=max_pixels)
    assert all(np.isfinite(m.mean).all() and np.isfinite(m.m2).all() for m in statistics.values())
    assert network.norms[0] in statistics.degenerate
    assert "almost blank" in caplog.text
    frozen = network.freeze(statistics)
    with torch.inference_mode():
        assert bool(frozen(tensor(noise(40, 40))).isfinite().all())


def test_an_ordinary_thumbnail_is_not_degenerate() -> None:
    assert johnson_statistics().degenerate == ()


@needs_shared
def test_a_real_photo_is_not_degenerate_and_a_black_one_is() -> None:
    network = load_network("johnson", weights("johnson/mosaic_width8.model"))
    assert collect_statistics(network, photo(96, 128)).degenerate == ()
    assert len(collect_statistics(network, np.zeros((96, 128, 3), np.uint8)).degenerate) > 0


def test_a_network_without_norms_needs_no_pass() -> None:
    assert collect_statistics(load_network("identity"), noise(5, 7)) == Statistics({})


def test_invented_statistics_fit_their_network() -> None:
    """The helper other tests rely on."""
    network = untrained(width=2)
    assert tuple(statistics_of(network)) == network.norms

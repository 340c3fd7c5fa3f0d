"""Covariances of features, and whitening and colouring with them: against NumPy, in parts, saved, and degenerate."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.fx import symbolic_trace

from tests.networks_support import in_float64, largest_difference, network_of, noise, statistics_of, tensor
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import moments
from urst_tiles.networks.folding import fold_pointwise
from urst_tiles.networks.moments import Covariance, Moments, Statistics
from urst_tiles.networks.normalization import frozen_norm, is_norm, reference_norm
from urst_tiles.networks.whitening import (
    WhitenAndColour,
    colouring_matrix,
    matrix_power,
    pointwise,
    whitening_matrix,
)

Array = NDArray[np.float64]


def features(channels: int, height: int, width: int, seed: int = 0, images: int = 1) -> Array:
    """Correlated and far from mean 0, (N, C, H, W)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels))
    raw = rng.normal(size=(images, channels, height, width)) * 2 + 50
    mixed: Array = np.einsum("oc,nchw->nohw", mixing, raw)
    return mixed


def flat(x: Array) -> Array:
    return x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)


@pytest.mark.parametrize(
    ("channels", "height", "width", "images"), [(1, 3, 4, 1), (5, 7, 9, 1), (3, 2, 5, 4), (64, 3, 3, 1)]
)
def test_covariance_is_numpys(channels: int, height: int, width: int, images: int) -> None:
    x = features(channels, height, width, images=images)
    found = Covariance.of(x)
    assert found.count == images * height * width
    assert found.mean == pytest.approx(flat(x).mean(1), rel=1e-12)
    assert found.comoment / (found.count - 1) == pytest.approx(np.cov(flat(x)).reshape(channels, channels), rel=1e-9)
    assert (found.comoment == found.comoment.T).all()
    assert found.m2 == pytest.approx(Moments.of(x).m2, rel=1e-9)
    assert found.m2.tolist() == found.comoment.diagonal().tolist()


def test_covariance_goes_through_its_pixels_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(3, 13, 11)
    whole = Covariance.of(x)
    monkeypatch.setattr(moments, "_CHUNK", 24)
    assert Covariance.of(x).comoment == pytest.approx(whole.comoment, rel=1e-9)


@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(1, 19), max_size=4), channels=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_parts_combine_into_the_whole(seed: int, cuts: list[int], channels: int) -> None:
    x = features(channels, 20, 3, seed)
    edges = sorted({0, 20, *cuts})
    total = None
    for top, bottom in pairwise(edges):
        part = Covariance.of(x[:, :, top:bottom])
        total = part if total is None else total + part
    whole = Covariance.of(x)
    assert isinstance(total, Covariance)
    assert total.count == whole.count
    assert total.mean == pytest.approx(whole.mean, rel=1e-10)
    scale = float(np.abs(whole.comoment).max())
    assert total.comoment == pytest.approx(whole.comoment, abs=1e-9 * scale)
    assert total.m2 == pytest.approx(whole.m2, rel=1e-8)


def test_covariances_do_not_combine_with_moments_or_others() -> None:
    one = Covariance.of(features(3, 4, 4))
    with pytest.raises(InputError, match="another one"):
        one.combine(Moments.of(features(3, 4, 4)))
    with pytest.raises(InputError, match="3 and of 2 channels"):
        one.combine(Covariance.of(features(2, 4, 4)))
    with pytest.raises(InputError, match=r"cannot have shape \(2, 2\)"):
        Covariance(4, one.mean, one.m2, np.eye(2))
    assert not one.comoment.flags.writeable


def test_statistics_with_covariances_are_saved_and_loaded(tmp_path: Path) -> None:
    statistics = Statistics(
        {"a.norm": Covariance.of(features(3, 4, 4)), "b": Moments.of(features(2, 4, 4))}, thumbnail=(4, 4)
    )
    statistics.save(tmp_path / "s.safetensors")
    again = Statistics.load(tmp_path / "s.safetensors")
    first = again["a.norm"]
    assert isinstance(first, Covariance)
    assert first.comoment.tolist() == statistics["a.norm"].arrays()["comoment"].tolist()
    assert not isinstance(again["b"], Covariance)
    assert again.hash() == statistics.hash()
    changed = np.array(first.comoment)
    changed[0, 1] = changed[1, 0] = changed[0, 1] + 1e-6
    other = Statistics({"a.norm": Covariance(first.count, first.mean, first.m2, changed), "b": again["b"]})
    assert other.hash() != statistics.hash()
    assert other != statistics


def test_powers_are_powers() -> None:
    matrix = np.cov(flat(features(6, 9, 9)))
    root, inverse = matrix_power(matrix, 0.5), matrix_power(matrix, -0.5)
    assert root @ root == pytest.approx(matrix, rel=1e-9, abs=1e-9)
    assert inverse @ matrix @ inverse == pytest.approx(np.eye(6), abs=1e-8)
    values, vectors = np.linalg.eigh(matrix)
    assert root == pytest.approx((vectors * values**0.5) @ vectors.T, abs=1e-9)
    assert (root == root.T).all()


def test_small_eigenvalues_are_dropped() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for least, kept in ((1e-6, 1), (1e-4, 4)):
        matrix = basis @ np.diag([4.0, least, 0.0]) @ basis.T
        found = np.linalg.eigvalsh(matrix_power(matrix, -0.5))
        wanted = sorted([0.5, 0.0 if kept == 1 else least**-0.5, 0.0])
        assert found == pytest.approx(wanted, abs=1e-6)


def test_whitened_features_are_white_and_coloured_ones_the_styles() -> None:
    """With content scaled up, the I that is added to its covariance no longer counts."""
    content, style = features(4, 30, 30, 1) * 1e4, features(4, 20, 20, 2)
    wanted, given = Covariance.of(style), Covariance.of(content)
    layer = WhitenAndColour(torch.tensor(wanted.mean), torch.from_numpy(colouring_matrix(wanted))).double()
    with torch.inference_mode():
        result = layer(torch.from_numpy(content)).numpy()
    assert np.cov(flat(result)) == pytest.approx(np.cov(flat(style)), rel=1e-4, abs=1e-3)
    assert flat(result).mean(1) == pytest.approx(flat(style).mean(1), rel=1e-5)
    white = whitening_matrix(given) @ flat(content)
    assert np.cov(white) == pytest.approx(np.eye(4), abs=1e-4)


def test_content_has_i_added_and_style_has_not() -> None:
    """By hand: variance 3 whitens to 3/4; variance 9 colours to 9."""
    content = np.array([-3.0, 0, 0, 3]).reshape(1, 1, 2, 2) / 6**0.5 * 3**0.5  # unbiased variance 3
    style = np.array([-1.0, 0, 0, 1]).reshape(1, 1, 2, 2) * (9 * 3 / 2) ** 0.5
    given, wanted = Covariance.of(content), Covariance.of(style)
    assert np.cov(flat(content)) == pytest.approx(3.0)
    assert whitening_matrix(given)[0, 0] == pytest.approx(0.5)
    assert colouring_matrix(wanted)[0, 0] == pytest.approx(3.0)
    layer = WhitenAndColour(torch.ones(1), torch.tensor([[3.0]]), alpha=0.25)
    with torch.inference_mode():
        found = layer(torch.from_numpy(content)).flatten().numpy()
    assert found == pytest.approx(0.25 * (1.5 * content.flatten() + 1) + 0.75 * content.flatten(), rel=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        np.full((1, 3, 4, 4), 7.0),
        np.zeros((1, 3, 1, 1)),
        np.repeat(features(1, 5, 5), 3, axis=1),
        features(3, 1, 2),
        np.concatenate([features(2, 5, 5), np.zeros((1, 1, 5, 5))], axis=1),
    ],
    ids=["constant", "one pixel", "equal channels", "fewer pixels than channels", "dead channel"],
)
def test_degenerate_features_stay_finite(content: Array) -> None:
    for styled in (content, features(3, 6, 6, 5)):
        style = Covariance.of(styled)
        layer = WhitenAndColour(torch.tensor(style.mean), torch.from_numpy(colouring_matrix(style)))
        with torch.inference_mode():
            result = layer(torch.from_numpy(content).float())
        assert result.isfinite().all()
        if styled is content and np.ptp(content) == 0:
            assert largest_difference(result.double(), torch.from_numpy(content)) < 1e-5


@given(seed=st.integers(0, 999), alpha=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_frozen_is_the_reference(seed: int, alpha: float) -> None:
    style, content = Covariance.of(features(3, 6, 6, seed)), Covariance.of(features(3, 5, 5, seed + 1))
    layer = WhitenAndColour(torch.tensor(style.mean), torch.from_numpy(colouring_matrix(style)), alpha)
    assert is_norm(layer)
    x = torch.from_numpy(features(3, 4, 7, seed + 2))
    with torch.inference_mode():
        frozen, stepwise = frozen_norm(layer, content)(x), reference_norm(layer, content)(x)
    assert largest_difference(frozen, stepwise) < 1e-9 * float(stepwise.abs().max())
    if alpha == 0:
        assert largest_difference(frozen, x) < 1e-9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"\(C, C\), not \(3,\) and \(2, 2\)"):
        WhitenAndColour(torch.zeros(3), torch.eye(2))
    with pytest.raises(NetworkError, match="needs the covariance"):
        WhitenAndColour(torch.zeros(3), torch.eye(3)).frozen(Moments.of(features(3, 2, 2)))


def test_neutral_statistics_freeze() -> None:
    layer = WhitenAndColour(torch.zeros(3), torch.eye(3))
    assert isinstance(layer.frozen(layer.neutral()), nn.Conv2d)
    assert "3 channels, alpha=1.0" in repr(layer)


def mixing(outputs: int, inputs: int, *, bias: bool = True) -> nn.Conv2d:
    rng = np.random.default_rng(outputs)
    return pointwise(rng.normal(size=(outputs, inputs)), rng.normal(size=outputs) * bias).float()


FOLDS: dict[str, tuple[list[nn.Module], int]] = {
    # layers, and how many 1x1 convolutions are left
    "conv": ([mixing(3, 3), nn.Conv2d(3, 4, 3)], 0),
    "widening": ([mixing(5, 3), nn.Conv2d(5, 4, 3)], 0),
    "reflect pad": ([mixing(3, 3), nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)], 0),
    "upsample, replicate pad": (
        [mixing(3, 3), nn.Upsample(scale_factor=2), nn.ReplicationPad2d(1), nn.Conv2d(3, 4, 3, bias=False)],
        0,
    ),
    "two in a row": ([mixing(3, 3), mixing(4, 3), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3)], 0),
    "stride and dilation": ([mixing(3, 3), nn.Conv2d(3, 4, 3, stride=2, dilation=2)], 0),
    "zero padding, no shift": ([mixing(3, 3, bias=False), nn.Conv2d(3, 4, 3, padding=1)], 0),
    "zero padding": ([mixing(3, 3), nn.Conv2d(3, 4, 3, padding=1)], 1),
    "zero pad layer": ([mixing(3, 3), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)], 1),
    "relu between": ([mixing(3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3)], 1),
    "pooling between": ([mixing(3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)], 1),
    "bilinear between": ([mixing(3, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 4, 3)], 1),
    "narrowing": ([nn.Conv2d(3, 6, 3), nn.ReLU(), mixing(2, 6), nn.Conv2d(2, 4, 3)], 1),
    "groups": ([mixing(4, 3), nn.Conv2d(4, 4, 3, groups=2)], 1),
    "a stride of its own": ([nn.Conv2d(3, 3, 1, stride=2), nn.Conv2d(3, 4, 3)], 1),
    "padded itself": ([nn.Conv2d(3, 3, 1, padding=1), nn.Conv2d(3, 4, 3)], 1),
    "last": ([nn.Conv2d(3, 3, 3), mixing(3, 3)], 1),
}


@pytest.mark.parametrize("name", FOLDS)
def test_1x1_convolutions_fold_where_they_may(name: str) -> None:
    layers, remaining = FOLDS[name]
    torch.manual_seed(0)
    module = nn.Sequential(*layers).double()
    image = torch.from_numpy(features(3, 12, 14))
    with torch.inference_mode():
        expected = module(image)
        net = symbolic_trace(module)
        fold_pointwise(net)
        net.delete_all_unused_submodules()
        net.recompile()
        assert largest_difference(net(image), expected) < 1e-9 * float(expected.abs().max())
    assert sum(layer.kernel_size == (1, 1) for layer in net.modules() if isinstance(layer, nn.Conv2d)) == remaining


class Twice(nn.Module):
    """The 1x1 convolution's result is read twice, or the convolution after it is used twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.second = kind, mixing(3, 3), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return self.second(x) + x if self.kind == "read" else self.second(self.second(x))


@pytest.mark.parametrize("kind", ["read", "used"])
def test_shared_layers_are_left_alone(kind: str) -> None:
    module = Twice(kind).double()
    image = torch.from_numpy(features(3, 8, 8))
    with torch.inference_mode():
        expected = module(image)
        net = symbolic_trace(module)
        fold_pointwise(net)
        net.recompile()
        assert torch.equal(net(image), expected)
    assert any(node.target == "first" for node in net.graph.nodes)


def test_law_5_of_a_network_with_a_whitening() -> None:
    layer = WhitenAndColour(torch.linspace(-1, 1, 4), torch.eye(4) + 0.2)
    network = network_of(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), layer, nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3))
    statistics, image = statistics_of(network), tensor(noise(12, 14))
    exact = in_float64(network)
    with torch.inference_mode():
        frozen = exact.freeze(statistics).module(image.double())
        assert largest_difference(frozen, exact.normalise_with(statistics).module(image.double())) < 1e-9
        single = network.freeze(statistics)
        assert largest_difference(single.module(image), network.normalise_with(statistics).module(image)) < 1e-4
    assert not any(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in single.modules())


def test_a_whitened_layer_is_degenerate_only_when_no_channel_varies() -> None:
    """Most channels of a ReLU's map may be 0 everywhere; an instance norm of such a map amplifies, a whitening not."""
    features = torch.zeros(1, 5, 8, 8)
    features[:, 0] = torch.randn(8, 8)
    assert Statistics({"norm": Moments.of(features)}).degenerate == ("norm",)
    assert Statistics({"whitening": Covariance.of(features)}).degenerate == ()
    assert Statistics({"whitening": Covariance.of(features * 0 + 1)}).degenerate == ("whitening",)

"""The losses against NumPy written by hand, and where gradients go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training_support import loss_network
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.geometry import Window
from urst_tiles.networks.johnson import JohnsonNetwork
from urst_tiles.training import losses
from urst_tiles.training.data import split
from urst_tiles.training.normalizing import collecting, normalizing_with
from urst_tiles.training.recipes import stroke_term


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def enlarged_by_hand(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear x2 with half-pixel centres: each output pixel is 3/4 of its own source pixel and 1/4 of the nearer
    neighbour."""

    def along(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        x = np.moveaxis(x, axis, 0)
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        out = np.empty((2 * len(x), *x.shape[1:]))
        out[0::2], out[1::2] = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        return np.moveaxis(out, 0, axis)

    return along(along(image, -1), -2)


def test_gram_matrix_is_the_sum_of_products_over_the_size() -> None:
    features = random(2, 5, 4, 6).numpy().astype(np.float64)
    by_hand = np.einsum("nahw,nbhw->nab", features, features) / (5 * 4 * 6)
    np.testing.assert_allclose(losses.gram_matrix(torch.from_numpy(features)).numpy(), by_hand, rtol=1e-5)


def test_style_loss_is_relative_to_the_painting() -> None:
    features, painting = random(3, 4, 5, 5).numpy(), random(1, 4, 7, 3, seed=1).numpy()
    gram = np.einsum("nahw,nbhw->nab", features, features) / features[0].size
    target = np.einsum("nahw,nbhw->nab", painting, painting) / painting[0].size
    expected = ((gram - target) ** 2).mean() / (target**2).mean()
    got = losses.style_loss(torch.from_numpy(features), losses.gram_matrix(torch.from_numpy(painting)))
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_content_loss_is_the_mean_square_over_a_constant() -> None:
    a, b = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    expected = ((a.numpy() - b.numpy()) ** 2).mean() / 2.5
    assert float(losses.content_loss(a, b, 2.5)) == pytest.approx(expected, rel=1e-5)


def test_stroke_target_is_the_enlarged_thumbnail_where_the_patch_was_cut() -> None:
    thumbnail = random(2, 3, 8, 10).double()
    place = Window(col_off=6, row_off=2, width=8, height=12)
    expected = enlarged_by_hand(thumbnail.numpy())[..., 2:14, 6:14]
    np.testing.assert_allclose(losses.stroke_target(thumbnail, place).numpy(), expected, rtol=1e-12)


def test_stroke_target_refuses_a_patch_outside_the_crop() -> None:
    with pytest.raises(InputError, match="does not lie inside"):
        losses.stroke_target(random(1, 3, 8, 8), Window(10, 0, 8, 8))


def norm_by_hand(x: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, variance = of.mean((2, 3), keepdims=True), of.var((2, 3), keepdims=True)
    normalized: NDArray[np.float64] = (x - mean) / np.sqrt(variance + 1e-5)
    return normalized


def test_the_whole_stroke_term_against_numpy() -> None:
    """A network of one norm, so that NumPy can follow: patch with the thumbnail's statistics, target enlarged and
    cropped."""
    crop = random(2, 3, 32, 32, seed=5)
    place = Window(col_off=4, row_off=10, width=16, height=16)
    batch = split(crop, place)
    network = torch.nn.Sequential(torch.nn.InstanceNorm2d(3, affine=True))
    vgg = loss_network()
    with collecting(network) as moments:
        output = network(batch.thumbnail)
    got, _ = stroke_term(network, vgg, "relu2_1", batch, output, moments, divisor=3.0)

    full = crop.numpy().astype(np.float64)
    thumbnail = full.reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
    patch = norm_by_hand(full[..., 10:26, 4:20], thumbnail)
    target = enlarged_by_hand(norm_by_hand(thumbnail, thumbnail))[..., 10:26, 4:20]
    seen = [vgg(torch.from_numpy(x).float(), ["relu2_1"])["relu2_1"].numpy() for x in (patch, target)]
    assert float(got.detach()) == pytest.approx(((seen[0] - seen[1]) ** 2).mean() / 3, rel=1e-3)


def test_collecting_leaves_an_ordinary_pass() -> None:
    torch.manual_seed(0)
    network, image = JohnsonNetwork((4, 8, 16), 1).double(), random(2, 3, 32, 32).double()
    expected = network(image)
    with collecting(network) as moments:
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
    with normalizing_with(network, moments):
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
    assert all(not m.mean.requires_grad and not m.variance.requires_grad for m in moments.values())
    torch.testing.assert_close(network(image), expected)  # nothing stays behind


def test_normalizing_needs_moments_of_every_layer() -> None:
    network = JohnsonNetwork((4, 8, 16), 1)
    with pytest.raises(NetworkError, match="was given no moments"), normalizing_with(network, {}):
        pass


def test_gradient_flows_into_the_patch_branch_only() -> None:
    """Two copies of one network, one for each branch: only the patch's learns."""
    torch.manual_seed(1)
    thumbnails, patches = JohnsonNetwork((4, 8, 16), 1), JohnsonNetwork((4, 8, 16), 1)
    patches.load_state_dict(thumbnails.state_dict())
    batch = split(random(1, 3, 64, 64, seed=2), Window(16, 8, 32, 32))
    with collecting(thumbnails) as moments:
        output = thumbnails(batch.thumbnail)
    term, _ = stroke_term(patches, loss_network(), "relu4_1", batch, output, moments, 1.0)
    torch.autograd.backward(term)
    assert all(parameter.grad is None for parameter in thumbnails.parameters())
    assert all(parameter.grad is not None for parameter in patches.parameters())
    assert sum(float(p.grad.abs().sum()) for p in patches.parameters() if p.grad is not None) > 0


def test_statistics_and_target_carry_no_gradient_in_one_network() -> None:
    """The gradient in the ordinary case equals the one with statistics and target as constants."""
    torch.manual_seed(1)
    network, vgg = JohnsonNetwork((4, 8, 16), 1), loss_network()
    batch = split(random(1, 3, 64, 64, seed=2), Window(16, 8, 32, 32))
    with collecting(network) as moments:
        output = network(batch.thumbnail)
    ordinary = torch.autograd.grad(
        stroke_term(network, vgg, "relu3_1", batch, output, moments, 1.0)[0], list(network.parameters())
    )
    constant = torch.autograd.grad(
        stroke_term(network, vgg, "relu3_1", batch, output.detach(), moments, 1.0)[0],
        list(network.parameters()),
    )
    torch.testing.assert_close(ordinary, constant)


def test_light_is_numpys_correlation_of_block_means() -> None:
    rng = np.random.default_rng(4)
    photo, image = rng.random((2, 2, 3, 64, 96), dtype=np.float32)

    def blocks(x: NDArray[np.float32]) -> NDArray[np.float32]:
        means: NDArray[np.float32] = x.mean(0).reshape(4, 16, 6, 16).mean((1, 3)).ravel()
        return means

    expected = np.mean([1 - np.corrcoef(blocks(a), blocks(b))[0, 1] for a, b in zip(image, photo, strict=True)])
    found = losses.light_loss(torch.from_numpy(image), torch.from_numpy(photo))
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_light_asks_for_the_order_of_brightness_not_for_its_amount() -> None:
    photo = torch.rand(1, 3, 64, 64)
    assert float(losses.light_loss(0.2 * photo + 0.5, photo)) == pytest.approx(0, abs=1e-4)
    assert float(losses.light_loss(1 - photo, photo)) == pytest.approx(2, abs=1e-4)
    flat = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    losses.light_loss(flat, photo).backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_flatness_counts_flat_places_and_no_others() -> None:
    image = random(1, 3, 64, 64)
    floor = losses.block_contrast(image).min()
    assert float(losses.flatness_loss(image, floor)) == pytest.approx(0, abs=1e-6)
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert float(losses.flatness_loss(flat, torch.tensor(0.1))) == pytest.approx(1, abs=0.03)


def test_grain_compares_detail_size_by_size() -> None:
    image = random(1, 3, 64, 64)
    by_hand, coarse = [], image.numpy().astype(np.float64)
    for _ in range(5):
        blocks = coarse.reshape(1, 3, coarse.shape[2] // 2, 2, coarse.shape[3] // 2, 2)
        by_hand.append(blocks.var((3, 5)).mean())
        coarse = blocks.mean((3, 5))
    np.testing.assert_allclose(losses.detail_energies(image)[0].numpy(), by_hand, rtol=1e-3)
    assert float(losses.grain_loss(image, losses.detail_energies(image)[0])) == pytest.approx(0, abs=1e-9)
    calmer = 0.5 + (image - 0.5) / 2
    expected = np.mean([np.log((e / 4 + 1e-5) / (e + 1e-5)) ** 2 for e in by_hand])
    assert float(losses.grain_loss(calmer, losses.detail_energies(image)[0])) == pytest.approx(expected, rel=1e-3)


def test_tone_and_range_are_zero_for_the_painting_itself() -> None:
    image = random(1, 3, 64, 64)
    mean, covariance = losses.colour_moments(image)
    assert float(losses.tone_loss(image, mean[0], covariance[0])) == pytest.approx(0, abs=1e-6)
    assert float(losses.range_loss(image)) == 0
    assert float(losses.range_loss(image + 1)) > 0

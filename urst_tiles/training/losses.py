"""Losses as plain functions of feature maps. All take (N, C, H, W) floating point and return a float32 scalar.

Gatys, Ecker, Bethge: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016 (Gram matrices). Chen et
al.: "Towards Ultra-Resolution Neural Style Transfer via Thumbnail Instance Normalization", AAAI 2022 (stroke
perceptual loss).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window

__all__ = [
    "content_loss",
    "flatness_loss",
    "grain_loss",
    "gram_matrix",
    "light_loss",
    "range_loss",
    "stroke_perceptual_loss",
    "stroke_target",
    "style_loss",
    "tone_loss",
]

_TINY = 1e-12
_FAINT = 1e-5
"""Energy of detail too weak to see: a three-hundredth of the range."""


def gram_matrix(features: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, C) float32: products of channels over all positions, divided by C·H·W."""
    n, c, h, w = features.shape
    flat = features.float().reshape(n, c, h * w)
    # Divided before the product: sums over a million positions of values in the thousands are kept in range.
    return torch.bmm(flat / (c * h * w), flat.transpose(1, 2))


def style_loss(features: Tensor, target: Tensor) -> Tensor:
    """Squared difference of Gram matrices, divided by the mean square of ``target``, the painting's (1, C, C).

    So divided it is 1 for an output without any texture, whatever the layer and the weights of the loss network.
    """
    return functional.mse_loss(gram_matrix(features), target.expand(len(features), -1, -1)) / _mean_square(target)


def content_loss(features: Tensor, target: Tensor, divisor: float) -> Tensor:
    """Mean squared difference over a constant: a batch's own mean square would weigh dim photos more than bright
    ones."""
    return functional.mse_loss(features.float(), target.float()) / divisor


def stroke_target(thumbnail: Tensor, place: Window) -> Tensor:
    """What a patch should look like: the stylised thumbnail enlarged twice, where the patch was cut. Detached.

    ``thumbnail`` is (N, 3, h, w); ``place`` is the patch inside the 2h x 2w crop, in pixels. → (N, 3, patch, patch)

    Raises:
        InputError: the patch does not lie inside the crop.
    """
    height, width = 2 * thumbnail.shape[-2], 2 * thumbnail.shape[-1]
    if place.col_off < 0 or place.row_off < 0 or place.col_end > width or place.row_end > height:
        raise InputError(f"patch {place} does not lie inside a crop of {width} x {height}")
    enlarged = functional.interpolate(thumbnail.detach(), scale_factor=2, mode="bilinear", align_corners=False)
    return enlarged[..., place.row_off : place.row_end, place.col_off : place.col_end]


def stroke_perceptual_loss(patch: Tensor, target: Tensor, divisor: float = 1.0) -> Tensor:
    """Mean squared difference of the patch's features from the target's, whose gradient is stopped (AAAI 2022, section
    3.4)::

        Lsp = MSE( φ(G(patch)), stop_gradient φ(crop(upsample2(G(thumb)))) )

    ``divisor`` makes it comparable to the other terms; 1 is the paper's.
    """
    return functional.mse_loss(patch.float(), target.detach().float()) / divisor


def tone_loss(image: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Distance of an image's colours from the painting's, in their first two moments over blocks of 8 x 8 px.

    ``image`` is (N, 3, H, W) in [0, 1]; ``mean`` (3,) and ``covariance`` (3, 3) are the painting's, see
    :func:`colour_moments`. It keeps the palette where Gram matrices of deep layers leave it free.
    """
    own_mean, own_covariance = colour_moments(image)
    return (own_mean - mean).square().sum(1).mean() / mean.square().sum() + (own_covariance - covariance).square().sum(
        (1, 2)
    ).mean() / covariance.square().sum().clamp_min(_TINY)


def colour_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) → mean (N, 3) and covariance (N, 3, 3) over blocks of 8 x 8 px, float32."""
    colours = functional.avg_pool2d(image.float(), 8).flatten(2)
    mean = colours.mean(2)
    centred = colours - mean[..., None]
    return mean, centred @ centred.transpose(1, 2) / colours.shape[2]


def light_loss(image: Tensor, photo: Tensor, block: int = 16) -> Tensor:
    """How far what is light in the photo is from being light in the picture: 1 minus the correlation of brightness over
    blocks of ``block`` px, 0 to 2.

    Both (N, 3, H, W) in [0, 1]. Features do not hold brightness where nothing has an edge: without this term a sun may
    come out darker than the sky around it.
    """
    own, wanted = (_centred(functional.avg_pool2d(x.float().mean(1, keepdim=True), block)) for x in (image, photo))
    norms = (own.square().sum(1) * wanted.square().sum(1) + _TINY).sqrt()
    return (1 - (own * wanted).sum(1) / norms).mean()


def _centred(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def flatness_loss(image: Tensor, floor: Tensor, block: int = 16) -> Tensor:
    """How far blocks of ``block`` px fall short of the painting's calmest ones in contrast; 0 where none does, 1 where
    all are flat.

    ``image`` is (N, 3, H, W) in [0, 1]; ``floor`` a scalar, see :func:`block_contrast`. A flat sky costs a Gram matrix
    little, because it is an average over the image; this term sees each place by itself.
    """
    short = (1 - block_contrast(image, block) / floor.clamp_min(_TINY)).clamp_min(0)
    return short.square().mean()


def block_contrast(image: Tensor, block: int = 16) -> Tensor:
    """Standard deviation of brightness in each block: (N, 3, H, W) → (N, 1, H/block, W/block), float32."""
    grey = image.float().mean(1, keepdim=True)
    mean = functional.avg_pool2d(grey, block)
    variance = functional.avg_pool2d(grey.square(), block) - mean.square()
    # The root's gradient at 0 is infinite.
    return (variance.clamp_min(0) + 1e-6).sqrt()


def grain_loss(image: Tensor, energies: Tensor) -> Tensor:
    """How far detail of each size is from being as strong as in the painting: mean square of log ratios.

    ``image`` is (N, 3, H, W), ``energies`` (levels,), see :func:`detail_energies`. Relative Gram matrices hardly see
    faint fine detail beside strong coarse channels, and a young network fills an output with hatching of two or three
    pixels.
    """
    own = detail_energies(image)
    return ((own + _FAINT) / (energies + _FAINT)).log().square().mean()


def detail_energies(image: Tensor, levels: int = 5) -> Tensor:
    """(N, 3, H, W) → (N, levels) float32, H and W at least 2^levels: variance inside blocks of 2, 4, 8, … px that
    smaller blocks do not have."""
    coarse = image.float()
    squares = [coarse.square().mean((1, 2, 3))]
    for _ in range(levels):
        coarse = functional.avg_pool2d(coarse, 2)
        squares.append(coarse.square().mean((1, 2, 3)))
    # Block means are orthogonal projections: what a level has lost in mean square is the energy of its detail.
    return -torch.stack(squares, 1).diff(dim=1)


def range_loss(image: Tensor) -> Tensor:
    """Mean square of what overshoots [0, 1] and would be clamped. (N, 3, H, W)"""
    image = image.float()
    return (image - image.clamp(0, 1)).square().mean()


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean().clamp_min(_TINY)

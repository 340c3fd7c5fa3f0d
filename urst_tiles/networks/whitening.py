"""Whitening and colouring with the content's statistics given: Thumbnail Instance Whitening.

Li et al.: "Universal Style Transfer via Feature Transforms", NeurIPS 2017, Eq. 3 and 4, with the thumbnail's statistics
as in Chen et al., AAAI 2022::

    y = colouring(s) whitening(t) (x - mean(t)) + mean(s)                result = alpha y + (1 - alpha) x

    whitening(t) = E D^(-1/2) Eᵀ  of  cov(t) + I              colouring(s) = E D^(1/2) Eᵀ  of  cov(s)

Covariances are unbiased. Adding I to the content's is what the published implementation does, and the weights' results
are known by; it also keeps the inverse in bounds for a thumbnail of any content, a constant one included. Eigenvalues
of 1e-5 and less are dropped, as published. All of it is float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.moments import Covariance, Moments
from urst_tiles.networks.normalization import Leaf, Norm

__all__ = ["WhitenAndColour", "colouring_matrix", "matrix_power", "pointwise", "whitening_matrix"]

LEAST_EIGENVALUE = 1e-5

Matrix = NDArray[np.float64]


def matrix_power(symmetric: Matrix, exponent: float, *, least: float = LEAST_EIGENVALUE) -> Matrix:
    """A power of a symmetric positive semi-definite matrix on the space that its eigenvalues above ``least`` span; 0
    elsewhere. (C, C) → (C, C), symmetric.
    """
    values, vectors = np.linalg.eigh(symmetric)
    kept = values > least
    basis = vectors[:, kept]
    power: Matrix = (basis * values[kept] ** exponent) @ basis.T
    return (power + power.T) / 2


def whitening_matrix(content: Covariance) -> Matrix:
    """(C, C): takes the content's correlations away."""
    return matrix_power(_unbiased(content) + np.eye(len(content.mean)), -0.5)


def colouring_matrix(style: Covariance) -> Matrix:
    """(C, C): gives white features the style's correlations."""
    return matrix_power(_unbiased(style), 0.5)


def _unbiased(covariance: Covariance) -> Matrix:
    return covariance.comoment / max(covariance.count - 1, 1)


def pointwise(matrix: Matrix | Tensor, shift: Matrix | Tensor) -> nn.Conv2d:
    """x → matrix x + shift at every pixel, as a 1x1 convolution in float64: (C', C) and (C',)."""
    weight, bias = torch.as_tensor(matrix).double(), torch.as_tensor(shift).double()
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, dtype=torch.float64).requires_grad_(requires_grad=False)
    layer.weight.copy_(weight[:, :, None, None])
    if layer.bias is not None:
        layer.bias.copy_(bias)
    return layer


class WhitenAndColour(Norm):
    """Gives a content's features the mean and the covariance of a style's: (N, C, H, W) → the same.

    Parameters:
        mean: the style's, (C,); of several styles, their weighted mean.
        colouring: see :func:`colouring_matrix`, (C, C); of several styles, their weighted mean.
        alpha: strength in [0, 1].
    """

    mean: Tensor
    colouring: Tensor
    alpha: Tensor

    def __init__(self, mean: Tensor, colouring: Tensor, alpha: float = 1.0) -> None:
        super().__init__()
        if mean.ndim != 1 or colouring.shape != (len(mean), len(mean)):
            raise NetworkError(
                f"a style's mean must be (C,) and its colouring (C, C), not {tuple(mean.shape)} and "
                f"{tuple(colouring.shape)}"
            )
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("colouring", colouring.detach().float().clone())
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def measure(self, observed: Tensor) -> Covariance:
        return Covariance.of(observed)

    def neutral(self) -> Covariance:
        channels = len(self.mean)
        return Covariance(2, np.zeros(channels), np.ones(channels), np.eye(channels))

    def frozen(self, moments: Moments) -> nn.Conv2d:
        mean, colouring = (value.detach().double().cpu().numpy() for value in (self.mean, self.colouring))
        alpha = float(self.alpha)
        matrix = colouring @ whitening_matrix(_covariance(moments))
        shift = mean - matrix @ moments.mean
        return pointwise(alpha * matrix + (1 - alpha) * np.eye(len(mean)), alpha * shift)

    def reference(self, moments: Moments) -> nn.Module:
        return _ThumbnailWhitening(_covariance(moments), self.mean, self.colouring, float(self.alpha))

    def extra_repr(self) -> str:
        return f"{len(self.mean)} channels, alpha={float(self.alpha)}"


class _ThumbnailWhitening(Leaf):
    """The equations above, step by step, in float64 whatever the network's type."""

    def __init__(self, content: Covariance, mean: Tensor, colouring: Tensor, alpha: float) -> None:
        super().__init__()
        self._content_mean = torch.tensor(content.mean)
        self._whitening = torch.tensor(whitening_matrix(content))
        self._mean, self._colouring, self._alpha = mean.detach().double(), colouring.detach().double(), alpha

    def forward(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(2)
        white = self._whitening.to(x.device) @ (flat - self._content_mean.to(x.device)[:, None])
        styled = self._colouring.to(x.device) @ white + self._mean.to(x.device)[:, None]
        return (self._alpha * styled + (1 - self._alpha) * flat).reshape(x.shape).to(x.dtype)


def _covariance(moments: Moments) -> Covariance:
    if not isinstance(moments, Covariance):
        raise NetworkError("a whitening needs the covariance of its channels, and was given their moments only")
    return moments

"""The learned transformation of LinearWCT with the content's statistics given.

Li et al.: "Learning Linear Transformations for Fast Image and Video Style Transfer", CVPR 2019, section 3.2, with the
thumbnail's statistics as in Chen et al., AAAI 2022. Of two norm layers, one after another, the first takes the
thumbnail's mean away; the second sees what is left, and its statistics are a Gram matrix of convolutions of that::

    x - mean(t)          then          S(s) C(t) compress(x),          C(t) = fc(vec(X Xᵀ / pixels)),  X = convs(x)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.moments import Covariance, Moments
from urst_tiles.networks.normalization import ChannelAffine, Leaf, Norm
from urst_tiles.networks.whitening import pointwise

__all__ = ["LinearTransform", "MatrixNetwork", "SubtractMean"]


class SubtractMean(Norm):
    """x - mean(t): (N, C, H, W) → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def neutral(self) -> Moments:
        return Moments(1, np.zeros(self.channels), np.ones(self.channels))

    def frozen(self, moments: Moments) -> ChannelAffine:
        mean = torch.tensor(moments.mean)
        return ChannelAffine(torch.ones_like(mean), -mean)

    def reference(self, moments: Moments) -> nn.Module:
        return _Minus(torch.tensor(moments.mean))


class _Minus(Leaf):
    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean[:, None, None]


class MatrixNetwork(nn.Module):
    """Features without their mean → a square matrix of as many rows as the last convolution has channels.

    Split in two: :attr:`convs`, zero-padded, and :meth:`matrix` of what is measured of their result. Not called whole.

    Parameters:
        channels: of the features.
        widths: of the three convolutions.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[1], widths[2], 3, padding=1),
        )
        self.size = widths[2]
        self.fc = nn.Linear(self.size**2, self.size**2)

    def matrix(self, seen: Covariance) -> Tensor:
        """fc(vec(X Xᵀ / pixels)), (size, size) float64, on the CPU. X itself is not centred, as published."""
        gram = torch.tensor(seen.comoment / seen.count + np.outer(seen.mean, seen.mean))
        weight, bias = (value.detach().double().cpu() for value in (self.fc.weight, self.fc.bias))
        return (weight @ gram.flatten() + bias).reshape(self.size, self.size)


class LinearTransform(Norm):
    """S(s) C(t) compress(x): (N, C, H, W) → (N, C', H, W).

    Parameters:
        style: S(s), (C', C'); of several styles, their weighted mean.
        content: makes C(t).
        compress: a 1x1 convolution from C to C' channels.
    """

    style: Tensor

    def __init__(self, style: Tensor, content: MatrixNetwork, compress: nn.Conv2d) -> None:
        super().__init__()
        if style.shape != (content.size, content.size) or compress.out_channels != content.size:
            raise NetworkError(
                f"a style's matrix of shape {tuple(style.shape)} and {compress.out_channels} compressed channels do "
                f"not fit a content's matrix of {content.size} rows"
            )
        self.content, self.compress = content, compress
        self.register_buffer("style", style.detach().float().clone())

    def observe(self, x: Tensor) -> Tensor:
        y: Tensor = self.content.convs(x)
        return y

    def measure(self, observed: Tensor) -> Covariance:
        return Covariance.of(observed)

    def neutral(self) -> Covariance:
        size = self.content.size
        return Covariance(2, np.zeros(size), np.ones(size), np.eye(size))

    def frozen(self, moments: Moments) -> nn.Conv2d:
        weight, bias = _parameters(self.compress)
        matrix = self._matrix(moments)
        return pointwise(matrix @ weight, matrix @ bias)

    def reference(self, moments: Moments) -> nn.Module:
        return _Transform(self._matrix(moments), self.compress)

    def _matrix(self, moments: Moments) -> Tensor:
        if not isinstance(moments, Covariance):
            raise NetworkError("LinearWCT needs the covariance of its channels, and was given their moments only")
        return self.style.detach().double().cpu() @ self.content.matrix(moments)


class _Transform(Leaf):
    """The product above from right to left."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, compress: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.compress = compress

    def forward(self, x: Tensor) -> Tensor:
        compressed: Tensor = self.compress(x)
        return (self.matrix @ compressed.flatten(2)).reshape(compressed.shape)


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Of a 1x1 convolution: (C', C) and (C',), float64, on the CPU."""
    weight = layer.weight.detach().double().cpu()[:, :, 0, 0]
    return weight, torch.zeros(len(weight)).double() if layer.bias is None else layer.bias.detach().double().cpu()

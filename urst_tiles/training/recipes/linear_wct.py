"""Li, Liu, Kautz, Yang: "Learning Linear Transformations for Fast Image and Video Style Transfer", CVPR 2019.

The decoder and all of the transformation are trained together, from nothing (URST's own code fixes the published
transformation and trains the decoder alone). Losses as published: content at the deepest level against the photo; style
as sums, not means, of squared differences of means and Gram matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.networks.linear_transform import MatrixNetwork
from urst_tiles.training import losses
from urst_tiles.training.encoders import Encoder
from urst_tiles.training.recipes.arbitrary import ArbitraryNetwork, ArbitraryRecipe, Statistics

__all__ = ["LinearWCTRecipe", "LinearWCTTrained"]

MATRIX = 32
"""Rows of the transformation, or the encoder's channels where these are fewer."""


class LinearWCTTrained(ArbitraryNetwork):
    """Statistics of either picture: its mean, (N, C, 1, 1), and its matrix, (N, size, size)::

    S(s) C(t) compress(x - mean(t))  →  unzip  →  + mean(s)
    """

    def __init__(self, encoder: Encoder, decoder: nn.Sequential, seed: int) -> None:
        super().__init__(encoder, decoder)
        channels = next(layer.out_channels for layer in reversed(encoder) if isinstance(layer, nn.Conv2d))
        size = min(MATRIX, channels)
        widths = (max(channels // 2, 1), max(channels // 4, 1), size)
        with torch.random.fork_rng(devices=[]):
            # Another stream than the decoder's.
            torch.manual_seed(seed + 1)
            self.snet, self.cnet = MatrixNetwork(channels, widths), MatrixNetwork(channels, widths)
            self.compress, self.unzip = nn.Conv2d(channels, size, 1), nn.Conv2d(size, channels, 1)
        # As torch fills them, both matrices are near 0 and so is each one's gradient, which has the other as a factor:
        # the photo would not reach the decoder for thousands of steps. Both begin near 1.
        for net in (self.snet, self.cnet):
            nn.init.eye_(net.fc.bias.data.view(size, size))

    def of_content(self, features: Tensor) -> Statistics:
        mean = features.mean((2, 3), keepdim=True)
        return mean, _matrix(self.cnet, features - mean)

    def of_style(self, features: Tensor) -> Statistics:
        mean = features.mean((2, 3), keepdim=True)
        return mean, _matrix(self.snet, features - mean)

    def transform(self, features: Tensor, content: Statistics, style: Statistics) -> Tensor:
        (content_mean, content_matrix), (style_mean, style_matrix) = content, style
        compressed: Tensor = self.compress(features - content_mean)
        moved = style_matrix @ (content_matrix @ compressed.flatten(2))
        transformed: Tensor = self.unzip(moved.reshape(compressed.shape))
        return transformed + style_mean


class LinearWCTRecipe(ArbitraryRecipe):
    """Decoder and transformation of LinearWCT."""

    name = "linear-wct"

    def content_term(self, seen: Tensor, aim: Tensor, photo: Tensor) -> Tensor:  # noqa: ARG002
        return functional.mse_loss(seen, photo)

    def style_term(self, seen: Tensor, painting: Tensor) -> Tensor:
        means = (seen.mean((2, 3)) - painting.mean((2, 3))).square().sum()
        grams = (losses.gram_matrix(seen) - losses.gram_matrix(painting)).square().sum()
        return (means + grams) / len(seen)


def _matrix(net: MatrixNetwork, centred: Tensor) -> Tensor:
    """fc(vec(X Xᵀ / pixels)) of each image, (N, size, size)."""
    seen = net.convs(centred).flatten(2)
    gram = seen @ seen.transpose(1, 2) / seen.shape[2]
    matrix: Tensor = net.fc(gram.flatten(1))
    return matrix.reshape(gram.shape)

"""Johnson's networks: one network for one painting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.errors import InputError
from urst_tiles.networks import StyleNetwork
from urst_tiles.networks.johnson import JohnsonNetwork
from urst_tiles.styles import StyleCard, save_style
from urst_tiles.training import losses
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import Batch
from urst_tiles.training.normalizing import BatchMoments, collecting, normalizing_with
from urst_tiles.training.recipes.base import halved, middle, mixed, stroke_between
from urst_tiles.training.vgg import LossNetwork

__all__ = ["JohnsonRecipe", "johnson_network", "stroke_term"]

CONTENT = {1: "relu2_2", 2: "relu3_3"}
"""Shrinking factor → layer at which a picture must still be the photo."""

STYLE = {
    1: ("relu1_1", "relu2_1", "relu3_1"),
    2: ("relu1_1", "relu2_1", "relu3_1", "deepest"),
    4: ("relu1_1", "relu2_1", "relu3_1", "deepest"),
}
"""Shrinking factor → layers at which Gram matrices are compared.

A picture shrunk before it enters the loss network shows strokes twice or four times as large to the same layers, for a
quarter or a sixteenth of the work. "deepest" is relu4_1, or what there is.
"""


BORDER = 16
"""Pixels at the edges of a stylised thumbnail that no term but the strokes' looks at.

The loss network pads with zeros, and a network trained against what that makes of the edges draws a frame of ripples
along every picture's border.
"""


@dataclass(frozen=True, slots=True)
class _Painting:
    """What outputs are compared with."""

    grams: dict[tuple[int, str], Tensor]
    # (shrinking factor, layer) → (1, C, C)
    mean: Tensor
    # (3,)
    covariance: Tensor
    # (3, 3)
    calm: Tensor
    # scalar: contrast that three in ten of the painting's blocks stay under
    detail: Tensor
    # (levels,): energy of detail of 2, 4, 8, … px
    stroke_variance: float
    # of the features at the stroke layer from place to place, mean over channels


class JohnsonRecipe:
    """One network for one painting.

    Style: Gram matrices at three sizes. Content: relu2_2, and relu3_3 of the halved picture. Tone: moments of colour.
    Grain: energy of detail by size. Light: what is light in the photo
    is light in the picture. Flatness: contrast of each small block. Strokes: the paper's term, divided by the
    variance of the painting's features at that layer: what channels have everywhere says nothing of strokes.

    Parameters:
        style: the painting, (1, 3, H, W) float32 in [0, 1].
    """

    name = "johnson"

    def __init__(self, network: nn.Module, vgg: LossNetwork, style: Tensor, config: TrainingConfig) -> None:
        self.network, self._vgg = network, vgg
        self.stroke_layer = vgg.stroke_layer if config.stroke_layer == "auto" else config.stroke_layer
        vgg.check([self.stroke_layer])
        # A loss network that ends early compares content where it ends.
        self._content = {factor: layer if layer in vgg.layers else vgg.layers[-1] for factor, layer in CONTENT.items()}
        self._style = {factor: _present(layers, vgg) for factor, layers in STYLE.items()}
        with torch.no_grad():
            self._painting = self._look_at(style)

    def _look_at(self, style: Tensor) -> _Painting:
        grams = {}
        for factor, layers in self._style.items():
            features = self._vgg(_shrunk(style, factor), layers)
            grams.update({(factor, layer): losses.gram_matrix(features[layer]) for layer in layers})
        mean, covariance = losses.colour_moments(style)
        calm = losses.block_contrast(style).flatten().quantile(0.3)
        strokes = self._vgg(style, [self.stroke_layer])[self.stroke_layer]
        return _Painting(
            grams,
            mean[0],
            covariance[0],
            calm,
            losses.detail_energies(style)[0],
            float(strokes.float().var(dim=(2, 3), correction=0).mean()),
        )

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> dict[str, float]:
        batches = list(batches)
        squares = {f"content{factor}": 0.0 for factor in self._content}
        for batch in batches:
            for factor, layer in self._content.items():
                features = self._vgg(_shrunk(batch.thumbnail, factor), [layer])[layer]
                squares[f"content{factor}"] += float(features.float().square().mean()) / len(batches)
        return squares

    def terms(self, batch: Batch, constants: Mapping[str, float], *, stroke: bool) -> dict[str, Tensor]:
        with collecting(self.network) as moments, _mixed(self._vgg):
            output = self.network(batch.thumbnail).float()
        terms = self._of_thumbnail(_inside(output), _inside(batch.thumbnail), constants)
        if stroke:
            terms["stroke"], patch = stroke_term(
                self.network, self._vgg, self.stroke_layer, batch, output, moments, self._painting.stroke_variance
            )
            # Seen from twice as far a patch is a thumbnail's picture, and no place of it may be flat either: alone, the
            # stroke term calms a sky in which strokes twice as large have nothing in reach that they could follow.
            terms["flatness"] = (terms["flatness"] + self._flatness(_shrunk(patch, 2))) / 2
        return terms

    @torch.no_grad()
    def preview(self, photo: Tensor, style: Tensor | None = None) -> list[Tensor]:  # noqa: ARG002
        was_training = self.network.training
        self.network.eval()
        thumbnail = halved(photo)
        with collecting(self.network) as moments:
            small = self.network(thumbnail)
        with normalizing_with(self.network, moments):
            large = middle(self.network(photo))
        self.network.train(was_training)
        return [thumbnail, small, large]

    def save(self, path: Path, card: StyleCard | None) -> None:
        if card is None:
            raise InputError("a style of one painting is saved with its card")
        save_style(path.parent, card, StyleNetwork(self.name, self.network.to("cpu")))

    def _flatness(self, image: Tensor) -> Tensor:
        return losses.flatness_loss(image, self._painting.calm)

    def _of_thumbnail(self, output: Tensor, photo: Tensor, constants: Mapping[str, float]) -> dict[str, Tensor]:
        style, content = [], []
        for factor, layers in self._style.items():
            small, compared = _shrunk(output, factor), self._content.get(factor)
            features = self._vgg(small, {*layers, compared} - {None})
            style += [losses.style_loss(features[layer], self._painting.grams[factor, layer]) for layer in layers]
            if compared is not None:
                with torch.no_grad():
                    wanted = self._vgg(_shrunk(photo, factor), [compared])[compared]
                content.append(losses.content_loss(features[compared], wanted, constants[f"content{factor}"]))
        painting = self._painting
        return {
            "style": torch.stack(style).mean(),
            "content": torch.stack(content).mean(),
            "tone": losses.tone_loss(output, painting.mean, painting.covariance),
            "grain": losses.grain_loss(output, painting.detail),
            "light": losses.light_loss(output, photo),
            "flatness": self._flatness(output),
            "overshoot": losses.range_loss(output),
        }


def stroke_term(
    network: nn.Module,
    vgg: LossNetwork,
    layer: str,
    batch: Batch,
    output: Tensor,
    moments: Mapping[str, BatchMoments],
    divisor: float,
) -> tuple[Tensor, Tensor]:
    """The stroke perceptual loss of a batch, and the stylised patch it was taken of.

    The patch goes through ``network`` normalised with ``moments``, its thumbnail's; ``output`` is the stylised
    thumbnail. Gradients flow through the patch alone.
    """
    with normalizing_with(network, moments), _mixed(vgg):
        patch = network(batch.patch).float()
    return stroke_between(lambda image: vgg(image, [layer])[layer], patch, output, batch.place, divisor), patch


def johnson_network(config: TrainingConfig) -> JohnsonNetwork:
    """An untrained network with the weights that ``config.seed`` gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return JohnsonNetwork(config.widths, config.blocks)


def _present(layers: tuple[str, ...], vgg: LossNetwork) -> tuple[str, ...]:
    named = [vgg.stroke_layer if layer == "deepest" else layer for layer in layers]
    return tuple(dict.fromkeys(layer for layer in named if layer in vgg.layers))


def _inside(image: Tensor) -> Tensor:
    """Without the border, where more than half of each side is left."""
    border = BORDER if min(image.shape[-2:]) > 4 * BORDER else 0
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def _shrunk(image: Tensor, factor: int) -> Tensor:
    return image if factor == 1 else functional.avg_pool2d(image, factor)


def _mixed(vgg: LossNetwork) -> AbstractContextManager[object]:
    """The network computes in the type that the loss network's weights have."""
    parameter = next(vgg.parameters())
    return mixed(parameter.device, parameter.dtype)

"""Methods for any style: a fixed encoder, a transformation of features by the style's, a decoder.

::

    thumbnail ─► encoder ─► transform ─► decoder ─► encoder ─► content, style
                              ▲  statistics of the thumbnail and of the painting; of the thumbnail's also here:
    patch ─────► encoder ─► transform ─► decoder ─► encoder ─► stroke perceptual loss
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.errors import InputError
from urst_tiles.networks.saving import save_state
from urst_tiles.styles import StyleCard
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import Batch
from urst_tiles.training.encoders import Encoder
from urst_tiles.training.recipes.base import halved, middle, mixed, stroke_between

__all__ = ["ArbitraryNetwork", "ArbitraryRecipe", "Statistics", "detached"]

Statistics = tuple[Tensor, ...]
"""What a method takes of one picture's features, per image of the batch."""


class ArbitraryNetwork(nn.Module):
    """Encoder, transformation and decoder. Its weights carry the names that load_network knows."""

    def __init__(self, encoder: Encoder, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def of_content(self, features: Tensor) -> Statistics:
        """What is taken of a thumbnail."""
        raise NotImplementedError

    def of_style(self, features: Tensor) -> Statistics:
        """What is taken of a painting."""
        raise NotImplementedError

    def transform(self, features: Tensor, content: Statistics, style: Statistics) -> Tensor:
        """Features of a thumbnail or a patch, (N, C, H, W), with the thumbnail's and the painting's statistics → the
        same shape."""
        raise NotImplementedError


class ArbitraryRecipe:
    """What AdaIN and LinearWCT share.

    Parameters:
        precision: of the encoder's and the decoder's arithmetic; transformation and losses are float32.

    Raises:
        InputError: there is no such stroke layer, or crops do not fit the encoder's stride.
    """

    name: str

    def __init__(self, network: ArbitraryNetwork, config: TrainingConfig, precision: torch.dtype) -> None:
        self._network, self._precision = network, precision
        encoder = network.encoder
        self.levels, self.deepest = encoder.levels, encoder.levels[-1]
        self.stroke_layer = self.deepest if config.stroke_layer == "auto" else config.stroke_layer
        encoder.check([self.stroke_layer])
        if config.crop % (2 * encoder.stride):
            raise InputError(
                f"crop {config.crop} is no multiple of {2 * encoder.stride}: half of it must fit the stride of an "
                f"encoder that ends at {self.deepest}"
            )

    @property
    def network(self) -> ArbitraryNetwork:
        return self._network

    def prepare(self, batches: Iterable[Batch]) -> dict[str, float]:  # noqa: ARG002  (nothing is measured)
        return {}

    def content_term(self, seen: Tensor, aim: Tensor, photo: Tensor) -> Tensor:
        """Of the result's deepest features, what the decoder was given, and the photo's features."""
        raise NotImplementedError

    def style_term(self, seen: Tensor, painting: Tensor) -> Tensor:
        """Of the result's and the painting's features at one level."""
        raise NotImplementedError

    def terms(self, batch: Batch, constants: Mapping[str, float], *, stroke: bool) -> dict[str, Tensor]:  # noqa: ARG002
        if batch.style is None:
            raise InputError(f"{self.name} is trained with paintings, and was given a batch without")
        with torch.no_grad():
            painting = self._look(batch.style, self.levels)
            photo = self._look_deepest(batch.thumbnail)
        content, style = self._network.of_content(photo), self._network.of_style(painting[self.deepest])
        aim = self._network.transform(photo, content, style)
        output = self._decode(aim)
        seen = self._look(output, self.levels)
        terms = {
            "content": self.content_term(seen[self.deepest], aim, photo),
            "style": torch.stack([self.style_term(seen[name], painting[name]) for name in self.levels]).sum(),
        }
        if stroke:
            patch = self.stylized_patch(batch.patch, detached(content), detached(style))
            terms["stroke"] = stroke_between(self._look_at_strokes, patch, output, batch.place)
        return terms

    def stylized_patch(self, patch: Tensor, content: Statistics, style: Statistics) -> Tensor:
        """(N, 3, H, W) → the same, with statistics of its thumbnail and of a painting."""
        with torch.no_grad():
            features = self._look_deepest(patch)
        return self._decode(self._network.transform(features, content, style))

    @torch.no_grad()
    def preview(self, photo: Tensor, style: Tensor | None) -> list[Tensor]:
        if style is None:
            raise InputError(f"{self.name} shows previews with a painting, and was given none")
        thumbnail = halved(photo)
        content = self._network.of_content(self._look_deepest(thumbnail))
        painting = self._network.of_style(self._look_deepest(style))
        small, large = (self.stylized_patch(image, content, painting) for image in (thumbnail, photo))
        shown = functional.interpolate(style, thumbnail.shape[-2:], mode="bilinear", align_corners=False)
        return [thumbnail, shown, small, middle(large)]

    def save(self, path: Path, card: StyleCard | None) -> None:
        if card is not None:
            raise InputError(f"{self.name} learns no single painting; a card cannot describe it")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, self.name, self._network.state_dict(), metadata={"encoder": f"VGG19 up to {self.deepest}"})

    def _look(self, image: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        with mixed(image.device, self._precision):
            found = self._network.encoder.features(image, layers)
        return {name: features.float() for name, features in found.items()}

    def _look_deepest(self, image: Tensor) -> Tensor:
        return self._look(image, [self.deepest])[self.deepest]

    def _look_at_strokes(self, image: Tensor) -> Tensor:
        return self._look(image, [self.stroke_layer])[self.stroke_layer]

    def _decode(self, features: Tensor) -> Tensor:
        with mixed(features.device, self._precision):
            image: Tensor = self._network.decoder(features)
        return image.float()


def detached(statistics: Statistics) -> Statistics:
    """As constants: no gradient flows into them."""
    return tuple(value.detach() for value in statistics)

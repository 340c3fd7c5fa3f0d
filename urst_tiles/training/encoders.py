"""The encoder of methods for any style: VGG19 as far as a weights file goes, fixed; and an untrained decoder for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import load_state_dict
from urst_tiles.networks.renaming import cleaned, part_of
from urst_tiles.networks.vgg import DEPTHS, decoder_positions, encoder_positions, level, vgg_decoder, vgg_encoder
from urst_tiles.networks.wct_layouts import layers as wct_layers

__all__ = ["Encoder", "load_encoder", "untrained_decoder"]

_DEEPEST = 9
"""3x3 convolutions up to relu4_1, where the published decoders begin."""

_SPELLINGS = (
    encoder_positions(_DEEPEST),
    list(wct_layers(4, "encoder")),
    [f"conv{number}" for number in range(1, _DEEPEST + 2)],
)
"""Names of the 1x1 and the 3x3 convolutions: of AdaIN and WCT, of Wang et al., of LinearWCT."""

_log = logging.getLogger(__name__)


class Encoder(nn.Sequential):
    """(N, 3, H, W) RGB in [0, 1] → features. Never trained; gradients flow through it to the image.

    Parameters:
        modules: as :func:`~urst_tiles.networks.vgg.vgg_encoder` gives them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__(*modules)
        self.requires_grad_(requires_grad=False)
        stage = within = 1
        self._named: list[str] = []
        # name of each module's result, "" where it has none
        for module in self:
            pools, activates = isinstance(module, nn.MaxPool2d), isinstance(module, nn.ReLU)
            self._named.append(f"relu{stage}_{within}" if activates else "")
            stage, within = (stage + 1, 1) if pools else (stage, within + activates)
        self.stride = 2 ** (stage - 1)
        # what it pools by

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that features can be asked by, "relu1_1" … the deepest."""
        return tuple(filter(None, self._named))

    @property
    def levels(self) -> tuple[str, ...]:
        """Those at which styles are compared: relu1_1, relu2_1, … the deepest."""
        return tuple(name for name in self.layers if name.endswith("_1"))

    def check(self, layers: Iterable[str]) -> None:
        """Raises InputError where a layer is not there."""
        for layer in layers:
            if layer not in self.layers:
                raise InputError(f"this encoder has no layer {layer!r}; it has {', '.join(self.layers)}")

    def features(self, image: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """By layer: (N, C, H/p, W/p), p = 1, 2, 4, 8 from stage to stage. Layers past the last one asked for are not
        computed.
        """
        wanted = set(layers)
        self.check(wanted)
        x, found = image, {}
        for module, name in zip(self, self._named, strict=True):
            x = module(x)
            if name in wanted:
                found[name] = x
                if len(found) == len(wanted):
                    break
        return found


def load_encoder(path: str | Path) -> Encoder:
    """Read a VGG encoder up to relu4_1, or up to the deepest level before that the file holds: vgg_normalised.pth, an
    encoder of WCT or LinearWCT, or a file that a training of this package wrote.

    Raises:
        NetworkError: the file cannot be read, holds something else, or ends before relu2_1.
    """
    state = cleaned(load_state_dict(path))
    state = part_of(state, "encoder.") or state
    names = max((_present(spelling, state) for spelling in _SPELLINGS), key=len)
    if not names or state[f"{names[0]}.weight"].shape[1:] != (3, 1, 1):
        raise NetworkError(
            f"{path} is no VGG encoder of style transfer: none that begins with a 1x1 convolution called 0, conv0 or "
            f"conv1 (first names: {', '.join(list(state)[:3])}). Give vgg_normalised.pth or an encoder of WCT"
        )
    depth = max((depth for depth in DEPTHS if depth < len(names)), default=0)
    if depth < DEPTHS[1]:
        raise NetworkError(f"{path} ends before relu2_1: a decoder needs an encoder that goes at least so far")
    places = dict(zip(encoder_positions(depth), names, strict=False))
    weights = {
        f"{ours}.{part}": state[f"{theirs}.{part}"] for ours, theirs in places.items() for part in ("weight", "bias")
    }
    _log.info("encoder %s: VGG19 up to %s, where the decoder begins", path, level(depth))
    # The sides of crops are multiples of the stride: which way odd ones are rounded never matters.
    return Encoder(vgg_encoder(weights, ceil_mode=True, source=str(path)))


def untrained_decoder(encoder: Encoder, seed: int) -> nn.Sequential:
    """The encoder's mirror image with the weights that ``seed`` gives."""
    mirrored = [layer for layer in reversed(encoder) if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    state: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in zip(decoder_positions(len(mirrored)), mirrored, strict=True):
            fresh = nn.Conv2d(layer.out_channels, layer.in_channels, 3)
            state |= {f"{name}.{part}": tensor for part, tensor in fresh.state_dict().items()}
        return vgg_decoder(state, channels=mirrored[0].out_channels, source="the decoder")


def _present(spelling: list[str], state: Mapping[str, Tensor]) -> list[str]:
    """The first names of a spelling, as far as there are weights."""
    found = []
    for name in spelling:
        if not {f"{name}.weight", f"{name}.bias"} <= state.keys():
            break
        found.append(name)
    return found

"""Wang et al.: "MicroAST: Towards Super-Fast Ultra-Resolution Arbitrary Style Transfer", AAAI 2023.

Two small encoders in the place of VGG, and a decoder that the style modulates in two ways::

    content encoder → AdaIN (second depth) → modulated residual block → AdaIN (first depth) → modulated residual
    block → x2 → x2

The style encoder's features at two depths give AdaIN their means and deviations, and through the modulator a factor and
an addend for the filters of each residual block. As published, alpha blends what AdaIN does and not the filters: with
alpha 0 these still are the style's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.adaptive import AdaptiveInstanceNorm2d, standard_deviation
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.microast_layers import Decoder, Encoder, Modulator, Widths, modulated
from urst_tiles.networks.moments import Moments
from urst_tiles.networks.recognition import recognise
from urst_tiles.networks.renaming import cleaned, part_of
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["METHOD", "MicroASTNetwork", "MicroASTWeights"]

_PARTS = ("content_encoder", "style_encoder", "modulator", "decoder")
_WIDTHS_FROM = tuple(f"content_encoder.enc1.{index}.conv_layer.weight" for index in (0, 2, 6))
"""Convolutions whose outputs are the widths at full, half and quarter resolution."""


class MicroASTWeights(nn.Module):
    """All layers that the published files hold. Not called itself."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.content_encoder = Encoder(widths)
        self.style_encoder = Encoder(widths)
        self.modulator = Modulator(widths.quarter)
        self.decoder = Decoder(widths)

    def signals(self, features: tuple[Tensor, Tensor]) -> list[Tensor]:
        """What the network needs of a style image's features, as the style encoder gives them: mean, deviation,
        filters' weight and bias at the first depth, and the same at the second. All (C,); linear in a mix of styles.
        """
        moments = [Moments.of(feature) for feature in features]
        statistics = [(torch.tensor(each.mean), standard_deviation(each)) for each in moments]
        weight1, bias1, weight2, bias2 = (signal.flatten() for signal in self.modulator(*features))
        return [*statistics[0], weight1, bias1, *statistics[1], weight2, bias2]


class MicroASTNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of 4, in one style.

    Parameters:
        weights: the published layers. The encoder and the last part of the decoder are shared with them.
        signals: see :meth:`MicroASTWeights.signals`.
        alpha: strength of AdaIN in [0, 1].
    """

    def __init__(self, weights: MicroASTWeights, signals: list[Tensor], alpha: float = 1.0) -> None:
        super().__init__()
        mean1, std1, weight1, bias1, mean2, std2, weight2, bias2 = signals
        self.encoder = weights.content_encoder
        self.norm2 = AdaptiveInstanceNorm2d(mean2, std2, alpha)
        self.dec1 = modulated(weights.decoder.dec1, weight2, bias2)
        self.norm1 = AdaptiveInstanceNorm2d(mean1, std1, alpha)
        self.dec2 = modulated(weights.decoder.dec2, weight1, bias1)
        self.dec3 = weights.decoder.dec3

    def forward(self, x: Tensor) -> Tensor:
        _, features = self.encoder(x)
        y: Tensor = self.dec3(self.dec2(self.norm1(self.dec1(self.norm2(features)))))
        return y


def _read(files: WeightFiles) -> dict[str, Tensor]:
    found = files.find({part: f"(.*_)?{part}.*" + r"\.(pth|pth\.tar|pt|safetensors)" for part in _PARTS})
    loaded = {part: cleaned(load_state_dict(path)) for part, path in found.items()}
    state = {f"{part}.{name}": tensor for part in _PARTS for name, tensor in loaded[part].items()}
    _weights(state, f"{found['content_encoder']} and the other three files")
    return state


def _weights(state: State, source: str = "these weights") -> MicroASTWeights:
    """The layers that weights by this package's names belong to.

    Raises:
        NetworkError: tensors are missing, left over, or of shapes that do not fit together.
    """
    widths = _widths(state, source)
    module = MicroASTWeights(widths)
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        looks = [(part, recognise(part_of(state, f"{part}."))) for part in _PARTS]
        others = [f"{part} looks like {what}" for part, what in looks if what and not what.endswith(_kind(part))]
        raise NetworkError(
            f"{source} are not MicroAST's: {len(missing)} of {len(expected)} tensors are missing "
            f"({', '.join(missing[:2]) or 'none'}) and {len(surplus)} are not part of it "
            f"({', '.join(surplus[:2]) or 'none'}){'; the ' if others else ''}{' and the '.join(others)}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise NetworkError(
                f"{source}: {name} has shape {tuple(tensor.shape)} where MicroAST of widths {tuple(widths)} has "
                f"{tuple(expected[name].shape)}"
            )
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval().requires_grad_(requires_grad=False)


def _kind(part: str) -> str:
    """What a part's weights are recognised as."""
    return f"MicroAST {part.removeprefix('content_').removeprefix('style_')}"


def _widths(state: State, source: str) -> Widths:
    """The published ones where a layer that tells them is missing: what else is there is said later."""
    given = [int(state[name].shape[0]) if name in state and state[name].ndim == 4 else 0 for name in _WIDTHS_FROM]
    widths = Widths(*given) if all(given) else Widths(16, 32, 64)
    if widths.half % widths.full or widths.quarter % widths.half:
        raise NetworkError(
            f"{source}: widths {tuple(widths)} are not MicroAST's; each must be a multiple of the one before"
        )
    return widths


def _build(state: State, styling: Styling) -> StyleNetwork:
    weights = _weights(state)
    network = MicroASTNetwork(weights, styling.mixed(weights.style_encoder, weights.signals), styling.alpha)
    encoder = weights.style_encoder
    return StyleNetwork(
        "microast",
        network,
        title="Wang et al. 2023",
        licence=METHOD.licence,
        style_pass=styling.through(nn.Sequential(encoder.enc1, encoder.enc2)),
    )


def _sample(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MicroASTWeights(Widths(4, 8, 16))
        state = module.state_dict()
        for name, tensor in state.items():
            signal = "modulator." in name
            if name.endswith(".bias"):
                nn.init.normal_(tensor, 0.5 if signal else 0.1, 0.1)
                continue
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
            if not signal:  # filters of mean 0 keep features varying from place to place
                tensor -= tensor.mean(dim=(1, 2, 3), keepdim=True)
    state["decoder.dec3.10.conv_layer.weight"] *= 0.7
    state["decoder.dec3.10.conv_layer.bias"] += 0.4
    return state


METHOD = Method(
    paper="Wang et al., AAAI 2023",
    summary="any style image; small encoders, filters that the style modulates",
    read=_read,
    build=_build,
    sample=_sample,
    files="four files: content_encoder_…, style_encoder_…, modulator_… and decoder_iter_160000.pth.tar",
    published="https://github.com/EndyWon/MicroAST (models)",
    licence="MIT",
    takes_style=True,
    takes_alpha=True,
)

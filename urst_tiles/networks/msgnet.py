"""Zhang, Dana: "Multi-style Generative Network for Real-time Transfer", ECCV workshops 2018 (arXiv 2017): MSG-Net.

One network for many styles, which takes the style as an image. Its first half sees both pictures; between the halves
stands the Inspiration layer (Eq. 3), which tunes the content's features to the style's Gram matrix::

    Y = Pᵀ X,   P = W G,   G = F Fᵀ / (C · H · W)          F: features of the style image, W: trained

With the style known, P is a constant, and the layer is a 1x1 convolution. The style image's features are normalised
with its own statistics, as published.

    7x7 → 2 blocks /2 → inspiration → blocks → 2 blocks x2 → 7x7

Blocks are pre-activation bottlenecks: (norm → ReLU → convolution) three times, beside a shortcut. The network's
pictures are blue, green, red from 0 to 255 without a mean; the order is changed in the first and last convolution's
weights.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.moments import Covariance
from urst_tiles.networks.msgnet_layouts import WHAT, translate
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.networks.renaming import convolution_shape, fill, part_of
from urst_tiles.networks.sampling import make_lively
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.networks.whitening import pointwise

__all__ = ["METHOD", "MSGNetwork"]

LEVELS = 255.0
REVERSED = [2, 1, 0]
"""Red, green, blue from blue, green, red, or the other way round."""


class _Block(nn.Module):
    """Pre-activation bottleneck: (N, inputs, H, W) → (N, outputs, H / stride, W / stride), or twice as large.

    The shortcut's 1x1 convolution comes before its upsampling here: the same result with a quarter of the work.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, shortcut: bool = False, stride: int = 1, up: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.InstanceNorm2d(inputs, affine=True), nn.ReLU()
        self.reduce = nn.Conv2d(inputs, middle, 1)
        self.norm2, self.relu2 = nn.InstanceNorm2d(middle, affine=True), nn.ReLU()
        self.upsample, self.pad = _doubled(up=up), nn.ReflectionPad2d(1)
        self.conv = nn.Conv2d(middle, middle, 3, stride)
        self.norm3, self.relu3 = nn.InstanceNorm2d(middle, affine=True), nn.ReLU()
        self.expand = nn.Conv2d(middle, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if shortcut else nn.Identity()
        self.upsample_shortcut = _doubled(up=up)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(self.relu1(self.norm1(x)))
        y = self.conv(self.pad(self.upsample(self.relu2(self.norm2(y)))))
        y = self.expand(self.relu3(self.norm3(y)))
        z: Tensor = y + self.upsample_shortcut(self.shortcut(x))
        return z


def _doubled(*, up: bool) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest") if up else nn.Identity()


class _Encoder(nn.Module):
    """(N, 3, H, W) in [0, 1] → (N, C, H / 4, W / 4)."""

    def __init__(self, first: int, down1: tuple[int, int, int], down2: tuple[int, int, int]) -> None:
        super().__init__()
        self.range_in = ChannelAffine(torch.full((3,), LEVELS), torch.zeros(3))
        self.pad, self.conv = nn.ReflectionPad2d(3), nn.Conv2d(3, first, 7)
        self.norm, self.relu = nn.InstanceNorm2d(first, affine=True), nn.ReLU()
        self.down1 = _Block(*down1, shortcut=True, stride=2)
        self.down2 = _Block(*down2, shortcut=True, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.pad(self.range_in(x)))))
        y: Tensor = self.down2(self.down1(x))
        return y


class _Decoder(nn.Module):
    """(N, C, H / 4, W / 4) → (N, 3, H, W) around [0, 1]."""

    def __init__(
        self, blocks: list[tuple[int, int, int]], up1: tuple[int, int, int], up2: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(*widths) for widths in blocks))
        self.up1 = _Block(*up1, shortcut=True, up=True)
        self.up2 = _Block(*up2, shortcut=True, up=True)
        last = up2[2]
        self.norm, self.relu = nn.InstanceNorm2d(last, affine=True), nn.ReLU()
        self.pad, self.conv = nn.ReflectionPad2d(3), nn.Conv2d(last, 3, 7)
        self.range_out = ChannelAffine(torch.full((3,), 1 / LEVELS), torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.up2(self.up1(self.blocks(x)))))
        y: Tensor = self.range_out(self.conv(self.pad(x)))
        return y


class MSGNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of 4, in the style that ``inspiration`` holds."""

    def __init__(self, encoder: nn.Module, inspiration: nn.Conv2d, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.inspiration, self.decoder = encoder, inspiration, decoder

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.inspiration(self.encoder(x)))
        return y


def gram_matrix(features: Tensor) -> Tensor:
    """(1, C, H, W) → (C, C) float64: F Fᵀ / (C · H · W)."""
    seen = Covariance.of(features)  # a part of the map at a time
    return torch.tensor(seen.comoment / seen.count + np.outer(seen.mean, seen.mean)) / len(seen.mean)


def _widths(state: State, block: str) -> tuple[int, int, int]:
    middle, inputs, _, _ = convolution_shape(state, f"{block}.reduce.weight", WHAT)
    return inputs, middle, convolution_shape(state, f"{block}.expand.weight", WHAT)[0]


def _encoder(state: State) -> _Encoder:
    first = convolution_shape(state, "conv.weight", WHAT)[0]
    encoder = _Encoder(first, _widths(state, "down1"), _widths(state, "down2"))
    fill(encoder, state, WHAT)
    encoder.conv.weight.data = encoder.conv.weight.data[:, REVERSED]
    return encoder.eval().requires_grad_(requires_grad=False)


def _decoder(state: State) -> _Decoder:
    blocks = sum(1 for name in state if name.startswith("blocks.") and name.endswith(".reduce.weight"))
    widths = [_widths(state, f"blocks.{i}") for i in range(blocks)]
    decoder = _Decoder(widths, _widths(state, "up1"), _widths(state, "up2"))
    fill(decoder, state, WHAT)
    for parameter in decoder.conv.parameters():
        parameter.data = parameter.data[REVERSED]
    return decoder


def _inspiration(state: State, styling: Styling, encoder: _Encoder) -> nn.Conv2d:
    """Eq. 3 as a 1x1 convolution; of several styles, with the weighted mean of their Gram matrices."""
    weight = state.get("inspiration.weight")
    channels = encoder.down2.expand.out_channels
    if weight is None or weight.shape != (channels, channels):
        shape = "is missing" if weight is None else f"has shape {tuple(weight.shape)}"
        raise NetworkError(f"inspiration.weight {shape} where {WHAT} of these widths has {(channels, channels)}")
    (gram,) = styling.mixed(encoder, lambda features: [gram_matrix(features)])
    matrix = (weight.double() @ gram).T
    return pointwise(matrix, matrix.new_zeros(channels)).float()


def _read(files: WeightFiles) -> dict[str, Tensor]:
    path = files.single()
    return translate(load_state_dict(path), str(path))


def _build(state: State, styling: Styling) -> StyleNetwork:
    encoder = _encoder(part_of(state, "encoder."))
    module = MSGNetwork(encoder, _inspiration(state, styling, encoder), _decoder(part_of(state, "decoder.")))
    return StyleNetwork("msgnet", module, title=TITLE, licence=METHOD.licence, style_pass=styling.through(encoder))


def _sample(seed: int) -> dict[str, Tensor]:
    encoder = _Encoder(8, (8, 4, 12), (12, 4, 16))
    decoder = _Decoder([(16, 4, 16)] * 6, (16, 4, 12), (12, 2, 8))
    make_lively(encoder, seed)
    make_lively(decoder, seed + 1)
    with torch.no_grad():
        encoder.conv.weight /= LEVELS / 2  # its input are levels
        decoder.conv.weight *= 30.0
    state = {f"encoder.{name}": value.detach() for name, value in encoder.named_parameters()}
    state |= {f"decoder.{name}": value.detach() for name, value in decoder.named_parameters()}
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    return state | {"decoder.conv.bias": torch.full((3,), LEVELS / 2), "inspiration.weight": matrix}


TITLE = "MSG-Net (Zhang, Dana 2017)"

METHOD = Method(
    paper="Zhang and Dana, ECCV workshops 2018 (arXiv 2017)",
    summary="MSG-Net: one network for many styles; the style image's Gram matrix tunes the features",
    read=_read,
    build=_build,
    sample=_sample,
    files="one file, 21styles.model in the layout of PyTorch-Multi-Style-Transfer or of URST",
    published="https://github.com/zhanghang1989/PyTorch-Multi-Style-Transfer (experiments/models/download_model.sh)",
    licence="MIT for the authors' repository; not stated for the weights file itself",
    takes_style=True,
)

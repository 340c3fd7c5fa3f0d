"""The layers of MicroAST: depthwise-separable convolutions and residual blocks, and filters that a style modulates.

Wang et al.: "MicroAST: Towards Super-Fast Ultra-Resolution Arbitrary Style Transfer", AAAI 2023. Names of layers are
those of the published files.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "Modulator", "Residual", "Widths", "modulated"]


class Widths(NamedTuple):
    """Channels at full, half and quarter resolution; (16, 32, 64) as published."""

    full: int
    half: int
    quarter: int


class _Layer(nn.Module):
    """Reflection pad → convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(kernel // 2) if kernel > 1 else nn.Identity()
        self.conv_layer = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_layer(self.pad(x))
        return y


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Layer(channels, channels, 3)
        self.relu = nn.ReLU()
        self.conv2 = _Layer(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv2(self.relu(self.conv1(x)))
        return y


class Encoder(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → features at two depths, both (N, quarter, H / 4, W / 4)."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        full, half, quarter = widths
        self.enc1 = nn.Sequential(
            _Layer(3, full, 9),
            nn.ReLU(),
            _Layer(full, half, 3, stride=2, groups=full),
            nn.ReLU(),
            _Layer(half, half, 1),
            nn.ReLU(),
            _Layer(half, quarter, 3, stride=2, groups=half),
            nn.ReLU(),
            _Layer(quarter, quarter, 1),
            nn.ReLU(),
            Residual(quarter),
        )
        self.enc2 = nn.Sequential(Residual(quarter))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.enc1(x)
        return first, self.enc2(first)


class Modulator(nn.Module):
    """Features of a style image at two depths → weight and bias of filters for each: four times (N, quarter, 1, 1).

    Order: weight and bias of the first depth, weight and bias of the second.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight1, self.bias1, self.weight2, self.bias2 = (
            nn.Sequential(_Layer(channels, channels, 3, groups=channels), nn.AdaptiveAvgPool2d(1)) for _ in range(4)
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.weight1(first), self.bias1(first), self.weight2(second), self.bias2(second)


class Decoder(nn.Module):
    """Two residual blocks, and the way up to full size. What goes between them is the network's."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        full, half, quarter = widths
        self.dec1 = Residual(quarter)
        self.dec2 = Residual(quarter)
        self.dec3 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _Layer(quarter, half, 3, groups=half),
            nn.ReLU(),
            _Layer(half, half, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _Layer(half, full, 3, groups=full),
            nn.ReLU(),
            _Layer(full, full, 1),
            nn.ReLU(),
            _Layer(full, 3, 9),
        )


def modulated(block: Residual, weight: Tensor, bias: Tensor) -> Residual:
    """The block with each convolution replaced by weight · conv(x) + bias · x, weight and bias (C,) (FilterMod, Eq. 3).

    That sum is one convolution: its filters scaled, and the bias added at their centre, where a filter of channel c
    meets channel c itself.
    """
    result = Residual(len(weight))
    for ours, theirs in ((result.conv1, block.conv1), (result.conv2, block.conv2)):
        source, target = theirs.conv_layer, ours.conv_layer
        filters = weight.double()[:, None, None, None] * source.weight.detach().double()
        filters[:, :, 1, 1] += torch.diag(bias.double())
        shift = weight.double() * (0.0 if source.bias is None else source.bias.detach().double())
        target.load_state_dict({"weight": filters.float(), "bias": shift.float()})
    return result

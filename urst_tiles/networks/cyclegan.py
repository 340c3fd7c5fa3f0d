"""Zhu, Park, Isola, Efros: "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV
2017.

The generator of residual blocks, and those of two later works that keep its form: CUT (Park et al., ECCV 2020), which
blurs where it resamples, and KIN (Ho et al., ECCV 2022) and DN, which learn those blurs::

    7x7 → down → down → residual blocks → up → up → 7x7 → tanh       an instance norm and a ReLU after each but the last

    down    3x3 /2                               or     3x3 → norm → ReLU → 3x3 /2 (blur)
    up      3x3 x2 (transposed)                  or     4x4 x2 (transposed: blur) → 3x3

Pictures are RGB in [-1, 1]. tanh and the way back to [0, 1] are one sigmoid: (tanh(x) + 1) / 2 = sigmoid(2 x), where
the 2 is folded into the last convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.cyclegan_layouts import WHAT, translate
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.networks.renaming import convolution_shape, fill
from urst_tiles.networks.sampling import make_lively
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["METHOD", "CycleGANGenerator", "sample_generator"]

Blurs = tuple[int | None, int | None, int | None, int | None]
"""Channels per group of the blurs of down1, down2, up1 and up2; None where there is none."""

NO_BLURS: Blurs = (None, None, None, None)


class _Layer(nn.Module):
    """[reflection pad →] convolution → norm [→ ReLU]. Without the pad, the convolution pads zeros, as published."""

    def __init__(self, conv: nn.Module, outputs: int, *, pad: int = 0, relu: bool = True) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(pad) if pad else nn.Identity()
        self.conv = conv
        self.norm = nn.InstanceNorm2d(outputs)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.norm(self.conv(self.pad(x))))
        return y


class _Down(_Layer):
    """(N, inputs, H, W) → (N, outputs, H / 2, W / 2). ``blur``: channels per group of its second convolution, or
    None."""

    def __init__(self, inputs: int, outputs: int, blur: int | None) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, 2 if blur is None else 1, padding=1), outputs)
        self.blur_pad = nn.Identity() if blur is None else nn.ReflectionPad2d(1)
        self.sample = nn.Identity() if blur is None else nn.Conv2d(outputs, outputs, 3, 2, groups=outputs // blur)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sample(self.blur_pad(super().forward(x)))
        return y


class _Up(_Layer):
    """(N, inputs, H, W) → (N, outputs, 2 H, 2 W). ``blur`` as in :class:`_Down`, of its first convolution."""

    def __init__(self, inputs: int, outputs: int, blur: int | None) -> None:
        plain = nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1)
        super().__init__(plain if blur is None else nn.Conv2d(inputs, outputs, 3, padding=1), outputs)
        self.blur_pad = nn.Identity() if blur is None else nn.ReplicationPad2d(1)
        groups = 1 if blur is None else inputs // blur
        learned = nn.ConvTranspose2d(inputs, inputs, 4, 2, padding=3, groups=groups)
        self.sample = nn.Identity() if blur is None else learned

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.sample(self.blur_pad(x)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Layer(nn.Conv2d(channels, channels, 3), channels, pad=1)
        self.second = _Layer(nn.Conv2d(channels, channels, 3), channels, pad=1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x)) + x
        return y


class CycleGANGenerator(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of 4.

    Parameters:
        widths: channels at full, half and quarter resolution; the published networks have (64, 128, 256).
        blocks: residual blocks; 9 or 6 as published.
        blurs: 1 each as published by CUT, all channels as published by KIN and DN.
    """

    def __init__(self, widths: tuple[int, int, int], blocks: int, blurs: Blurs = NO_BLURS) -> None:
        super().__init__()
        full, half, quarter = widths
        self.range_in = ChannelAffine(torch.full((3,), 2.0), torch.full((3,), -1.0))
        self.first = _Layer(nn.Conv2d(3, full, 7), full, pad=3)
        self.down1 = _Down(full, half, blurs[0])
        self.down2 = _Down(half, quarter, blurs[1])
        self.residual = nn.Sequential(*(_Residual(quarter) for _ in range(blocks)))
        self.up1 = _Up(quarter, half, blurs[2])
        self.up2 = _Up(half, full, blurs[3])
        self.pad, self.last = nn.ReflectionPad2d(3), nn.Conv2d(full, 3, 7)
        self.twice, self.sigmoid = ChannelAffine(torch.full((3,), 2.0), torch.zeros(3)), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.down2(self.down1(self.first(self.range_in(x))))
        x = self.up2(self.up1(self.residual(x)))
        y: Tensor = self.sigmoid(self.twice(self.last(self.pad(x))))
        return y


def _blur(state: State, layer: str, channels: int) -> int | None:
    """Channels per group of a layer's blur, or None where it has none."""
    name = f"{layer}.sample.weight"
    if name not in state:
        return None
    shape = convolution_shape(state, name, WHAT)
    if shape[0] != channels or channels % shape[1]:
        raise NetworkError(
            f"{name} has shape {shape}, which is no blur of the {channels} channels that {WHAT} has there"
        )
    return shape[1]


def _read(files: WeightFiles) -> dict[str, Tensor]:
    path = files.single()
    return translate(load_state_dict(path), str(path))


def _build(state: State, _styling: Styling) -> StyleNetwork:
    full, half, quarter = (
        convolution_shape(state, f"{name}.conv.weight", WHAT)[0] for name in ("first", "down1", "down2")
    )
    blocks = sum(1 for name in state if name.startswith("residual.") and name.endswith(".second.conv.weight"))
    blurs = (
        _blur(state, "down1", half),
        _blur(state, "down2", quarter),
        _blur(state, "up1", quarter),
        _blur(state, "up2", half),
    )
    module = CycleGANGenerator((full, half, quarter), blocks, blurs)
    fill(module, state, WHAT)
    return StyleNetwork("cyclegan", module, title=f"CycleGAN generator, {blocks} blocks", licence=METHOD.licence)


def sample_generator(seed: int, blocks: int = 9, blurs: Blurs = NO_BLURS) -> CycleGANGenerator:
    """A narrow generator with random weights, the same for the same seed, whose output fills [0, 1]."""
    module = CycleGANGenerator((4, 6, 8), blocks, blurs)
    make_lively(module, seed)
    return module


def _sample(seed: int) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in sample_generator(seed).named_parameters()}


METHOD = Method(
    paper="Zhu et al., ICCV 2017",
    summary="image-to-image translation: one trained generator per direction; also generators of CUT, KIN and DN",
    read=_read,
    build=_build,
    sample=_sample,
    files="one generator with residual blocks, latest_net_G.pth (CycleGAN, CUT) or EPOCH_G.pth (KIN, DN)",
    published="https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix (scripts/download_cyclegan_model.sh), "
    "https://github.com/taesungp/contrastive-unpaired-translation, "
    "https://github.com/Kaminyou/Kernelized-Instance-Normalization",
    licence="BSD for the CycleGAN and CUT repositories, MIT for KIN's; not stated for the weights files themselves",
)

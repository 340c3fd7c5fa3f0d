"""Li, Fang, Yang, Wang, Lu, Yang: "Universal Style Transfer via Feature Transforms", NeurIPS 2017 (WCT).

Any style without training for it: a picture is encoded by VGG-19, its features are whitened and given the style
features' covariance and mean, and a decoder trained to undo the encoder makes a picture of them. This is done at
several depths, one after another, the coarsest first (Fig. 1c of the paper)::

    image → [VGG to conv5_1 → whiten, colour → decoder 5] → [VGG to conv4_1 → … → decoder 4] → … → decoder 1

Each bracket is a level with an encoder, a decoder and a whitening of its own; which levels there are is read from the
weights, and how wide their layers are. Nothing is clamped in between. The published encoders halve odd sides upwards;
here sides are multiples of the stride, for which that makes no difference.

Whitening uses the thumbnail's statistics, see :mod:`urst_tiles.networks.whitening`. Wang et al.'s networks
(:mod:`urst_tiles.networks.collaborative`) are built from the same parts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.moments import Covariance
from urst_tiles.networks.renaming import fill, part_of
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.wct_layouts import LEVELS, FileNames, check_level, layers, levels_in, read_levels
from urst_tiles.networks.whitening import WhitenAndColour, colouring_matrix

__all__ = ["METHOD", "WCTNetwork", "random_levels", "wct_network"]

LICENCE = "for academic use only, as its authors say"
FILES = FileNames(
    what="WCT",
    encoder=r"vgg_normali[sz]ed_conv{}_1\.\w+",
    decoder=r"feature_invertor_conv{}_1\.\w+",
    example="vgg_normalised_conv{0}_1.t7 and feature_invertor_conv{0}_1.t7 (or .pth)",
)


class _Level(nn.Module):
    """One depth: (N, 3, H, W) → the same."""

    def __init__(self, encoder: nn.Sequential, norm: WhitenAndColour, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.norm, self.decoder = encoder, norm, decoder

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.norm(self.encoder(x)))
        return y


class WCTNetwork(nn.Sequential):
    """(N, 3, H, W) RGB in [0, 1] → about the same, H and W multiples of 2^(deepest level - 1).

    Its levels are called level5, level4, … and run in the order given.
    """

    def __init__(self, levels: Sequence[tuple[int, _Level]]) -> None:
        super().__init__(OrderedDict((f"level{number}", level) for number, level in levels))


def wct_network(
    state: State,
    styling: Styling,
    *,
    name: str = "wct",
    title: str = "Li et al. 2017 (WCT)",
    licence: str = LICENCE,
    positive: bool = False,
) -> StyleNetwork:
    """Build the levels that the weights are of, with the styles given.

    ``positive``: the decoders end in a ReLU, as Wang et al.'s do.

    Raises:
        NetworkError: weights are missing, left over, or do not fit together.
        InputError: there is no style image.
    """
    numbers = levels_in(state)
    stray = [key for key in state if not key.startswith(tuple(f"level{number}." for number in numbers))]
    if not numbers or stray:
        raise NetworkError(
            f"these are not the weights of {title}: {(stray or ['nothing'])[0]} belongs to no level 1 to 5"
        )
    levels = [(number, _level(state, number, styling, title, positive=positive)) for number in numbers]
    style_pass = styling.through(*(level.encoder for _, level in levels))
    return StyleNetwork(name, WCTNetwork(levels), title=title, licence=licence, style_pass=style_pass)


def _level(state: State, level: int, styling: Styling, title: str, *, positive: bool) -> _Level:
    check_level(state, level, title)
    encoder, decoder = _encoder(state, level), _decoder(state, level, positive=positive)
    for half, module in (("encoder", encoder), ("decoder", decoder)):
        fill(module, part_of(state, f"level{level}.{half}."), f"the {half} of level {level} of {title}")
    return _Level(encoder, _styled(encoder, styling), decoder)


def _encoder(state: State, level: int) -> nn.Sequential:
    """conv0, then reflection pad → convolution → ReLU for each layer, a max pool before each next depth."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in layers(level, "encoder"):
        outputs, inputs = state[f"level{level}.encoder.{layer}.weight"].shape[:2]
        number = layer.removeprefix("conv")
        if layer == "conv0":
            found[layer] = nn.Conv2d(inputs, outputs, 1)
            continue
        if number.endswith("1") and number != "11":
            found[f"pool{int(number[0]) - 1}"] = nn.MaxPool2d(2)
        found[f"pad{number}"] = nn.ReflectionPad2d(1)
        found[layer] = nn.Conv2d(inputs, outputs, 3)
        found[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(found)


def _decoder(state: State, level: int, *, positive: bool) -> nn.Sequential:
    """The encoder's mirror image: reflection pad → convolution → ReLU, x2 where it pools, nothing after the last."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in layers(level, "decoder"):
        outputs, inputs = state[f"level{level}.decoder.{layer}.weight"].shape[:2]
        number = layer.removeprefix("conv")
        found[f"pad{number}"] = nn.ReflectionPad2d(1)
        found[layer] = nn.Conv2d(inputs, outputs, 3)
        if number != "11" or positive:
            found[f"relu{number}"] = nn.ReLU()
        if number.endswith("1") and number != "11":
            found[f"up{int(number[0]) - 1}"] = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(found)


def _styled(encoder: nn.Sequential, styling: Styling) -> WhitenAndColour:
    """With the mean and colouring of the style images' features, as this level's own encoder sees them."""

    def measured(features: Tensor) -> tuple[Tensor, Tensor]:
        found = Covariance.of(features)
        return torch.tensor(found.mean), torch.tensor(colouring_matrix(found))

    mean, colouring = styling.mixed(encoder, measured)
    return WhitenAndColour(mean, colouring, styling.alpha)


def random_levels(seed: int, levels: Sequence[int] = LEVELS, width: int = 2) -> dict[str, Tensor]:
    """Random weights of the published geometry, the same for the same seed. ``width``: channels of the two finest
    depths; the others have twice as many.
    """
    state: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for level in levels:
            inputs = 3
            state |= _random(f"level{level}.encoder.conv0", 3, 3, kernel=1, gain=_RANGE)
            for layer in layers(level, "encoder")[1:]:
                outputs = width if layer[4] in "12" else 2 * width
                state |= _random(f"level{level}.encoder.{layer}", inputs, outputs)
                gain = 1 / _RANGE if layer == "conv11" else 1.0
                state |= _random(f"level{level}.decoder.{layer}", outputs, inputs, gain=gain)
                inputs = outputs
    return state


_RANGE = 8.0
"""What an image's range becomes in random networks: features vary by more than the I that whitening adds to them."""


def _random(name: str, inputs: int, outputs: int, *, kernel: int = 3, gain: float = 1.0) -> dict[str, Tensor]:
    """Passing each channel on, and edges of all of them: pictures come through many layers as trained networks let
    them.
    """
    weight = torch.randn(outputs, inputs, kernel, kernel) * 0.8 / (inputs * kernel**2) ** 0.5
    if kernel > 1:
        weight -= weight.mean(dim=(1, 2, 3), keepdim=True)
    weight[range(outputs), [i % inputs for i in range(outputs)], kernel // 2, kernel // 2] += 1.0
    return {f"{name}.weight": gain * weight, f"{name}.bias": gain * 0.1 * torch.randn(outputs)}


METHOD = Method(
    paper="Li et al., NeurIPS 2017",
    summary="any style image; whitening and colouring of VGG features, coarse to fine",
    read=lambda files: read_levels(files, FILES),
    build=wct_network,
    sample=random_levels,
    files=(
        "vgg_normalised_conv{n}_1 and feature_invertor_conv{n}_1 (.t7 or .pth) for each level n to run, of 5 to 1: "
        "all of them, or fewer for less abstraction and a smaller halo"
    ),
    published="https://github.com/Yijunmaverick/UniversalStyleTransfer (.t7)",
    licence=LICENCE,
    takes_style=True,
    takes_alpha=True,
)

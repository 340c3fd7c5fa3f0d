"""Halo, stride and minimum come from the graph: by oracle (NaN probing, published halos) and by law (tight)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks_support import in_float64, largest_difference, noise, tensor, tiled
from urst_tiles.errors import NetworkError
from urst_tiles.networks import load_network
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.reach import Reach
from urst_tiles.networks.receptive_field import ReceptiveField, receptive_field
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import collect_statistics


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def reflected(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(channels, out, kernel, stride)]


def cyclegan(blocks: int) -> nn.Module:
    """The layers of the published ResNet generator, at a few channels."""
    return nn.Sequential(
        *reflected(3, 2, 7),
        nn.Conv2d(2, 2, 3, 2, 1),
        nn.Conv2d(2, 2, 3, 2, 1),
        *(Residual(*reflected(2, 2), nn.ReLU(), *reflected(2, 2)) for _ in range(blocks)),
        nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1),
        nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1),
        *reflected(2, 3, 7),
        nn.Tanh(),
    )


def vgg_autoencoder(level: int) -> nn.Module:
    """VGG19 up to relu{level}_1 and the decoder that mirrors it: WCT's and AdaIN's networks at a few channels."""
    encoder: list[nn.Module] = [nn.Conv2d(3, 3, 1), *reflected(3, 2), nn.ReLU()]
    decoder: list[list[nn.Module]] = [reflected(2, 3)]
    for convolutions in (2, 2, 4, 4)[: level - 1]:
        for _ in range(convolutions - 1):
            encoder += [*reflected(2, 2), nn.ReLU()]
            decoder.append([*reflected(2, 2), nn.ReLU()])
        encoder += [nn.MaxPool2d(2, ceil_mode=True), *reflected(2, 2), nn.ReLU()]
        decoder.append([nn.Upsample(scale_factor=2)])
        decoder.append([*reflected(2, 2), nn.ReLU()])
    return nn.Sequential(*encoder, *(layer for part in reversed(decoder) for layer in part))


@pytest.mark.parametrize(
    ("module", "halo", "stride"),
    [
        (untrained(width=4).module, 56, 4),
        (cyclegan(9), 84, 4),
        (cyclegan(6), 60, 4),
        (vgg_autoencoder(1), 2, 1),
        (vgg_autoencoder(2), 8, 2),
        (vgg_autoencoder(3), 24, 4),
        (vgg_autoencoder(4), 64, 8),
        (vgg_autoencoder(5), 160, 16),
        (nn.Sequential(*(vgg_autoencoder(level) for level in (5, 4, 3, 2, 1))), 256, 16),
    ],
    ids=["johnson", "cyclegan9", "cyclegan6", "wct1", "wct2", "wct3", "wct4", "wct5", "wct5to1"],
)
def test_halos_measured_on_the_published_networks_are_derived(module: nn.Module, halo: int, stride: int) -> None:
    found = receptive_field(module)
    assert (found.halo, found.stride, found.scale) == (halo, stride, Fraction(1))


def test_johnson_needs_eight_pixels() -> None:
    network = untrained(width=2)
    assert (network.halo, network.stride, network.minimum, network.scale) == (56, 4, 8, Fraction(1))
    network.module(torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match=r"[Pp]adding"):
        network.module(torch.zeros(1, 3, 4, 4))


def test_identity_has_no_halo() -> None:
    assert load_network("identity").field == ReceptiveField(halo=0, stride=1, scale=Fraction(1), minimum=1)


Layers = list[nn.Module]
CHOICES: dict[str, Callable[[], Layers]] = {
    "3x3": lambda: reflected(2, 2),
    "5x5 replicate": lambda: [nn.ReplicationPad2d(2), nn.Conv2d(2, 2, 5)],
    "dilated": lambda: [nn.Conv2d(2, 2, 3, padding=2, dilation=2)],
    "left only": lambda: [nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(2, 2, 3)],
    "even": lambda: [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 2, 2)],
    "same": lambda: [nn.Conv2d(2, 2, (3, 5), padding="same")],
    "residual": lambda: [Residual(*reflected(2, 2), nn.ReLU(), *reflected(2, 2, 5))],
    "pointwise": lambda: [nn.Tanh(), nn.PReLU(), nn.Conv2d(2, 2, 1)],
    "norm": lambda: [nn.BatchNorm2d(2)],
    "grouped": lambda: [nn.Conv2d(2, 2, 3, padding=1, groups=2)],
}
DOWN: dict[str, Callable[[], Layers]] = {
    "strided": lambda: reflected(2, 2, 3, 2),
    "strided 4": lambda: [nn.Conv2d(2, 2, 4, 2, 1)],
    "subsampled": lambda: [nn.Conv2d(2, 2, 1, 2)],
    "pool": lambda: [nn.MaxPool2d(2, ceil_mode=True)],
    "overlapping pool": lambda: [nn.AvgPool2d(3, 2, 1)],
    "unshuffle": lambda: [nn.PixelUnshuffle(2), nn.Conv2d(8, 2, 1)],
}
UP: dict[str, Callable[[], Layers]] = {
    "nearest": lambda: [nn.Upsample(scale_factor=2)],
    "bilinear": lambda: [nn.Upsample(scale_factor=2, mode="bilinear")],
    "transposed": lambda: [nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1)],
    "transposed 4": lambda: [nn.ConvTranspose2d(2, 2, 4, 2, 1)],
    "transposed 2": lambda: [nn.ConvTranspose2d(2, 2, 2, 2)],
    "shuffle": lambda: [nn.Conv2d(2, 8, 1), nn.PixelShuffle(2)],
}


@st.composite
def small_networks(draw: st.DrawFn) -> tuple[str, nn.Module]:
    """Up to two levels down and up again, with layers of every kind between them."""
    names: list[str] = []
    layers: Layers = [nn.Conv2d(3, 2, 1)]

    def add(choices: dict[str, Callable[[], Layers]]) -> None:
        name = draw(st.sampled_from(sorted(choices)))
        names.append(name)
        layers.extend(choices[name]())

    levels = draw(st.integers(0, 2))
    for choices in [DOWN] * levels + [UP] * levels:
        if draw(st.booleans()):
            add(CHOICES)
        add(choices)
    for _ in range(draw(st.integers(0, 2))):
        add(CHOICES)
    return " | ".join(names), nn.Sequential(*layers, nn.Conv2d(2, 3, 1)).eval()


@given(small_networks(), st.sampled_from([2, 3]))
@settings(max_examples=25, deadline=None)
def test_nan_probing_finds_the_same_reach(described: tuple[str, nn.Module], axis: int) -> None:
    """A NaN in the input shows which outputs read it: the derived halo covers them, and one stride less does not."""
    name, module = described
    field = receptive_field(module)
    stride, halo = field.stride, field.halo
    side = 2 * (halo + stride) + stride
    start = halo + stride  # a period of the grid in the middle
    reach = 0
    for offset in range(stride):
        image = torch.zeros(1, 3, side, side)
        image.select(axis, start + offset).fill_(torch.nan)
        with torch.inference_mode():
            hit = module(image).isnan().any(1)[0]
        lines = hit.any(3 - axis).nonzero().flatten()
        # Reach of the cores (aligned to the stride) that saw the NaN.
        for line in lines.tolist():
            low = line // stride * stride
            reach = max(reach, low - (start + offset), (start + offset) - (low + stride - 1))
    assert reach <= halo, name
    other = {2: 3, 3: 2}[axis]
    if "(3, 5)" not in str(module):  # a kernel that is not square is tight along its longer axis only
        assert reach > halo - stride or halo == 0, f"{name}, axis {axis} (not {other})"


def test_law_4_one_stride_less_breaks_the_tiling() -> None:
    """In float64: the outermost ring of a receptive field weighs little, and must not drown in rounding."""
    network = in_float64(untrained(width=4))
    frozen = network.freeze(collect_statistics(network, noise(64, 64)))
    image = tensor(noise(140, 204), torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=68), whole) < 1e-13
        assert largest_difference(tiled(frozen, image, core=68, halo=frozen.halo - frozen.stride), whole) > 1e-11


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=(2, 3), keepdim=True)


class Flipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(3)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class WritesThroughView(nn.Module):
    """Adds a shifted copy in place: a graph that overlooks the write through a view would find no reach."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[..., 3:].add_(x[..., :-3])
        return y


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Global(), "mean"),
        (Flipped(), "flip"),
        (Branching(), "cannot be recorded"),
        (nn.Sequential(nn.Conv2d(3, 3, 3)), "960 px gives an output of 958 px"),
        (nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(3, 3, 3)), "cannot be tiled"),
        (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)), "align_corners"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Upsample(scale_factor=240)), "adaptive_avg_pool2d"),
        (nn.Sequential(nn.GroupNorm(1, 3)), "group_norm"),
        (nn.Flatten(), r"shape \(1, 2764800\)"),
        (nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (480, 1920))), "flatten"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_tiled_is_refused_by_name(module: nn.Module, says: str) -> None:
    with pytest.raises(NetworkError, match=says) as caught:
        receptive_field(module)
    assert "\n" not in str(caught.value)


def test_writing_through_a_view_is_seen() -> None:
    with pytest.raises(NetworkError, match="slice_scatter"):  # refused: a halo of 0 would be wrong
        receptive_field(WritesThroughView())


def test_a_network_that_enlarges_is_refused() -> None:
    network = StyleNetwork("big", nn.Sequential(nn.Upsample(scale_factor=2)))
    assert receptive_field(network.module).scale == 2
    with pytest.raises(NetworkError, match="2 output pixels per input pixel"):
        _ = network.halo


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    pad=st.integers(0, 3),
    dilation=st.integers(1, 3),
    low=st.integers(-20, 20),
    length=st.integers(0, 10),
)
def test_reach_of_a_window_is_the_hull_of_its_taps(
    kernel: int, stride: int, pad: int, dilation: int, low: int, length: int
) -> None:
    reach = Reach(step=stride, low=-pad, high=dilation * (kernel - 1) - pad)
    taps = [o * stride - pad + t * dilation for o in range(low, low + length + 1) for t in range(kernel)]
    assert reach.needs(low, low + length) == (min(taps), max(taps))

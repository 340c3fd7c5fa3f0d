"""Convolving in phases changes no pixel and takes 2.25 times fewer multiplications."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

from urst_tiles.networks.footprint import multiply_adds
from urst_tiles.networks.graphs import flatten
from urst_tiles.networks.phases import convolve_in_phases
from urst_tiles.networks.untrained import untrained

PADS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "reflect": lambda: (nn.ReflectionPad2d(1), 0),
    "replicate": lambda: (nn.ReplicationPad2d(1), 0),
    "zeros": lambda: (nn.Identity(), 1),
}


def decoder(pad: str, *, inputs: int = 3, outputs: int = 3, bias: bool = True, relu: bool = True) -> GraphModule:
    padding, own = PADS[pad]()
    layers = [
        nn.Conv2d(3, inputs, 1),
        nn.Upsample(scale_factor=2, mode="nearest"),
        padding,
        nn.Conv2d(inputs, outputs, 3, padding=own, bias=bias),
        nn.ReLU() if relu else nn.Identity(),
        nn.Conv2d(outputs, 3, 1),
    ]
    net = flatten(nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity))).double())
    assert isinstance(net, GraphModule)
    return net


def in_phases(net: GraphModule) -> GraphModule:
    convolve_in_phases(net)
    net.delete_all_unused_submodules()
    net.recompile()
    return net


@settings(max_examples=25, deadline=None)
@given(
    pad=st.sampled_from(sorted(PADS)),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    bias=st.booleans(),
    relu=st.booleans(),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_pixel_stays(
    pad: str, inputs: int, outputs: int, bias: bool, relu: bool, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net = decoder(pad, inputs=inputs, outputs=outputs, bias=bias, relu=relu)
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = net(image)
    phased = in_phases(net)
    assert not any(isinstance(layer, nn.Upsample) for layer in phased.modules())
    torch.testing.assert_close(phased(image), expected, rtol=0, atol=1e-12)
    recorded = torch.export.export(phased, (image,), strict=False).module()
    torch.testing.assert_close(recorded(image), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pad", sorted(PADS))
def test_multiplications_are_2_25_times_fewer(pad: str) -> None:
    def of_the_doubled(net: GraphModule) -> float:
        # At this size the one position more of the padded map is a thousandth.
        side = 1000
        return multiply_adds(net.float(), side, side) - (3 * 3 * side**2 + 3 * 3 * (2 * side) ** 2)

    before, after = of_the_doubled(decoder(pad)), of_the_doubled(in_phases(decoder(pad)))
    assert before / after == pytest.approx(2.25, rel=0.01)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Upsample(scale_factor=3, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)],
        [nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(2), nn.Conv2d(3, 3, 3)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3, stride=2)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3, groups=3)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3, padding=1)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(2), nn.Conv2d(3, 3, 5)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(3, 3, 3)],
        [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")],
    ],
    ids=lambda layers: "-".join(str(layer).split("(")[0] for layer in layers),
)
def test_what_is_not_that_stays_as_it_is(layers: list[nn.Module]) -> None:
    net = flatten(nn.Sequential(*layers))
    assert isinstance(net, GraphModule)
    before = [(node.op, str(node.target)) for node in net.graph.nodes]
    convolve_in_phases(net)
    assert [(node.op, str(node.target)) for node in net.graph.nodes] == before


def test_a_frozen_network_has_no_doubling_left() -> None:
    network = untrained(width=4, seed=0)
    frozen = network.freeze(network.neutral_statistics)
    assert not any(isinstance(layer, nn.Upsample) for layer in frozen.modules())

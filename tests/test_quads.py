"""Convolving for four positions at a time changes no pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

from urst_tiles.networks.graphs import flatten, module_of
from urst_tiles.networks.quads import FEW, Shuffle, convolve_in_quads, of_quads, quad_kernels
from urst_tiles.networks.untrained import untrained

INPUTS = FEW + 1


def graph(*layers: nn.Module) -> GraphModule:
    net = flatten(nn.Sequential(*layers).double())
    assert isinstance(net, GraphModule)
    return net


def in_quads(net: GraphModule, *, stride: int = 2, minimum: int = 16) -> bool:
    """Whether anything was rewritten."""
    convolve_in_quads(net, stride=stride, minimum=minimum)
    net.delete_all_unused_submodules()
    net.recompile()
    return any(isinstance(layer, Shuffle) for layer in net.modules())


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.sampled_from([2, 3, 5, 9]), st.sampled_from([2, 3, 5, 9])),
    outputs=st.integers(1, FEW),
    bias=st.booleans(),
    padded=st.booleans(),
    last=st.sampled_from([nn.Tanh, nn.ReLU]),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    seed=st.integers(0, 99),
)
def test_every_pixel_stays(
    kernel: tuple[int, int],
    outputs: int,
    bias: bool,
    padded: bool,
    last: type[nn.Module],
    height: int,
    width: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    rows, cols = kernel
    pad = nn.Identity() if padded else nn.ReflectionPad2d((cols // 2, (cols - 1) // 2, rows // 2, (rows - 1) // 2))
    own = (rows // 2, cols // 2) if padded else 0
    net = graph(nn.Conv2d(3, INPUTS, 1), pad, nn.Conv2d(INPUTS, outputs, kernel, padding=own, bias=bias), last())
    image = torch.randn(2, 3, 2 * height, 2 * width, dtype=torch.float64)
    expected = net(image)
    # An even kernel with padding of its own gives one position more than there are pixels.
    rewritten = not padded or all(side % 2 for side in kernel)
    assert in_quads(net) == rewritten
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)
    final = [module_of(net, node) for node in net.graph.nodes if node.op == "call_module"][-1]
    assert last is nn.Tanh or not isinstance(final, nn.ReLU) or not rewritten  # it comes before the shuffle


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(INPUTS, FEW + 1, 3, padding=1),
        nn.Conv2d(FEW, 3, 3, padding=1),
        nn.Conv2d(INPUTS, 3, 1),
        nn.Conv2d(INPUTS, 3, 3, padding=1, stride=2),
        nn.Conv2d(INPUTS, 3, 3, padding=2, dilation=2),
        nn.Conv2d(2 * FEW, FEW, 3, padding=1, groups=2),
        nn.Conv2d(INPUTS, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(INPUTS, 3, 3, padding="same"),
        nn.Conv2d(INPUTS, 3, 2),
    ],
    ids=str,
)
def test_what_is_not_that_stays_as_it_is(layer: nn.Conv2d) -> None:
    net = graph(nn.Conv2d(3, layer.in_channels, 1), layer)
    before = [(node.op, str(node.target)) for node in net.graph.nodes]
    assert not in_quads(net)
    assert [(node.op, str(node.target)) for node in net.graph.nodes] == before


@pytest.mark.parametrize(("stride", "minimum", "rewritten"), [(1, 16, False), (3, 18, False), (4, 16, True)])
def test_sides_must_be_even_whatever_the_image(stride: int, minimum: int, rewritten: bool) -> None:
    net = graph(nn.Conv2d(3, INPUTS, 1), nn.Conv2d(INPUTS, 3, 3, padding=1))
    assert in_quads(net, stride=stride, minimum=minimum) == rewritten


@pytest.mark.parametrize("bias", [True, False])
def test_what_was_put_in_quads_is_found_again(bias: bool) -> None:
    layer = nn.Conv2d(INPUTS, 3, 9, padding=4, bias=bias)
    net = graph(nn.Conv2d(3, INPUTS, 1), layer, nn.Tanh())
    assert in_quads(net)
    (wide,) = (each for each in net.modules() if isinstance(each, nn.Conv2d) and each.stride == (2, 2))
    found = of_quads(wide)
    assert found is not None
    assert found.state_dict().keys() == layer.state_dict().keys()
    assert all(torch.equal(found.state_dict()[key], value) for key, value in layer.state_dict().items())
    assert (found.stride, found.padding, found.kernel_size) == ((1, 1), (4, 4), (9, 9))


def test_what_only_looks_like_quads_is_none() -> None:
    wide = nn.Conv2d(INPUTS, 12, 4, stride=2)
    assert of_quads(wide) is None
    wide.weight = nn.Parameter(quad_kernels(torch.randn(3, INPUTS, 3, 3)))
    assert of_quads(wide) is None  # four biases that differ
    wide.bias = nn.Parameter(torch.randn(3).repeat_interleave(4))
    assert of_quads(wide) is not None
    assert of_quads(nn.Conv2d(INPUTS, 12, 4)) is None


def test_shared_weights_stay() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widen, self.last = nn.Conv2d(3, INPUTS, 1), nn.Conv2d(INPUTS, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(self.widen(self.last(self.widen(x))))
            return result

    assert not in_quads(graph(Twice()))


def test_a_frozen_johnson_network_ends_in_quads() -> None:
    network = untrained(width=8, seed=0)
    frozen = network.freeze(network.neutral_statistics)
    assert any(isinstance(layer, Shuffle) for layer in frozen.modules())

"""A convolution to few channels, computed for 2 x 2 positions at a time: exact, and several times faster on a CPU.

A network ends in a convolution to three channels, while processors multiply vectors of 8 or 16: most of each vector is
empty, and in a Johnson network that one layer takes a quarter of the time. Four neighbouring positions of the result
are read from a square of the input that is one wider than the kernel::

    positions (0, 0) (0, 1)     kernel k x k  →  four kernels of (k + 1) x (k + 1), each the same numbers,
              (1, 0) (1, 1)                      shifted by its position; the rest zero

So a convolution with a step of two gives all four as channels, twelve for three, and a shuffle puts them beside each
other. That is (k + 1)² / k² times the multiplications (1.23 for the kernels of 9 that most of these networks end in),
in vectors that are four times as full.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.graphs import module_of, relu_after, shapes, used_once
from urst_tiles.networks.normalization import Leaf

__all__ = ["FEW", "Shuffle", "convolve_in_quads", "of_quads", "quad_kernels"]

FEW = 4
"""Channels that four positions make no more than a vector of 16 of."""


def convolve_in_quads(net: GraphModule, *, stride: int, minimum: int) -> None:
    """conv k x k to few channels [→ relu]  becomes  conv (k + 1) x (k + 1) by steps of 2 [→ relu] → shuffle, where its
    result's sides are even for every image whose sides are multiples of ``stride`` and at least ``minimum``.
    """
    found = [node for node in net.graph.nodes if _is_narrow(net, node)]
    even = _always_even(net, minimum, stride) if found else set()
    for node in found:
        if node in even:
            _rewrite(net, node)


def quad_kernels(weight: Tensor) -> Tensor:
    """(out, in, h, w) → (4·out, in, h + 1, w + 1): for each channel its four positions, row by row."""
    depth, inputs, height, width = weight.shape
    kernels = weight.new_zeros(depth, 4, inputs, height + 1, width + 1)
    for index, (row, col) in enumerate(product((0, 1), repeat=2)):
        kernels[:, index, :, row : row + height, col : col + width] = weight
    return kernels.reshape(4 * depth, inputs, height + 1, width + 1)


def of_quads(layer: nn.Conv2d) -> nn.Conv2d | None:
    """The convolution that, in quads, is this one; None: it is none in quads."""
    outputs, inputs, height, width = layer.weight.shape
    if layer.stride != (2, 2) or outputs % 4 or min(height, width) < 2:
        return None
    weight = layer.weight.detach()[::4, :, : height - 1, : width - 1]
    bias = None if layer.bias is None else layer.bias.detach()[::4]
    if not torch.equal(quad_kernels(weight), layer.weight):
        return None
    if layer.bias is not None and bias is not None and not torch.equal(bias.repeat_interleave(4), layer.bias):
        return None
    whole = nn.Conv2d(inputs, outputs // 4, (height - 1, width - 1), 1, layer.padding, bias=layer.bias is not None)  # type: ignore[arg-type]
    whole.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        whole.bias = nn.Parameter(bias, requires_grad=False)
    return whole


class Shuffle(Leaf):
    """(N, 4·C, H, W) → (N, C, 2·H, 2·W): the four positions of each channel put beside each other."""

    def forward(self, quads: Tensor) -> Tensor:
        return functional.pixel_shuffle(quads, 2)


def _is_narrow(net: GraphModule, node: Node) -> bool:
    layer = module_of(net, node)
    if not isinstance(layer, nn.Conv2d) or not used_once(net, node):
        return False
    plain = layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    # A kernel of one position would take four times the multiplications, and with as few inputs there are none to save.
    wide = min(layer.kernel_size) > 1 and layer.in_channels > FEW
    return plain and wide and layer.out_channels <= FEW and isinstance(layer.padding, tuple)


def _always_even(net: GraphModule, minimum: int, stride: int) -> set[Node]:
    """The nodes whose maps have even sides: at two sizes, and sides are straight lines in the image's side."""
    one, two = (shapes(net, side) for side in (minimum, minimum + stride))
    return {node for node in one if all(side % 2 == 0 for side in (*one[node][-2:], *two[node][-2:]))}


def _rewrite(net: GraphModule, node: Node) -> None:
    name = str(node.target)
    net.set_submodule(name, _in_quads(net.get_submodule(name)))  # type: ignore[arg-type]
    shuffle = f"{name}_quads_join"
    net.add_submodule(shuffle, Shuffle())
    last = relu_after(net, node) or node
    with net.graph.inserting_after(last):
        joined = net.graph.call_module(shuffle, (last,))
    for reader in [user for user in last.users if user is not joined]:
        reader.replace_input_with(last, joined)


def _in_quads(layer: nn.Conv2d) -> nn.Conv2d:
    kernels = quad_kernels(layer.weight.detach())
    size = (kernels.shape[2], kernels.shape[3])
    wide = nn.Conv2d(layer.in_channels, len(kernels), size, 2, layer.padding, bias=layer.bias is not None)  # type: ignore[arg-type]
    wide.weight = nn.Parameter(kernels, requires_grad=False)
    if layer.bias is not None:
        wide.bias = nn.Parameter(layer.bias.detach().repeat_interleave(4), requires_grad=False)
    return wide

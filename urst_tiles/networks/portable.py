"""A frozen network for other runtimes: the same layers in operations that they know, none of them bound to a size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.graphs import input_of, module_of, used_once
from urst_tiles.networks.normalization import Leaf
from urst_tiles.networks.phases import Interleave

__all__ = ["make_portable", "portable"]


def portable(module: nn.Module) -> nn.Module:
    """A copy for other runtimes; a module that is no graph is copied as it is. See :func:`make_portable`."""
    net = copy.deepcopy(module)
    make_portable(net)
    return net


def make_portable(net: nn.Module) -> None:
    """Put phases together by one shuffle of pixels, in place.

    :class:`~urst_tiles.networks.phases.Interleave` takes one phase after another; a shuffle wants the four of a channel
    side by side. Putting the kernels before it in that order costs nothing where they are run, and leaves no number in
    the graph that is of one size: what is exported from one picture is right for any.
    """
    if isinstance(net, GraphModule):
        for node in net.graph.nodes:
            if isinstance(module_of(net, node), Interleave):
                _shuffle(net, node)


class _Shuffle(Leaf):
    """(N, 4·C, H + 1, W + 1) → (N, C, 2·H, 2·W), the four phases of a channel side by side, the odd ones first."""

    def forward(self, phases: Tensor) -> Tensor:
        return functional.pixel_shuffle(phases, 2)[..., 1:-1, 1:-1]


def _shuffle(net: GraphModule, join: Node) -> None:
    """Order the kernels of the convolution whose phases are put together. What may stand between is a ReLU."""
    convolution = input_of(join)
    if not isinstance(module_of(net, convolution), nn.Conv2d):
        convolution = input_of(convolution)
    layer = module_of(net, convolution)
    if not isinstance(layer, nn.Conv2d) or not used_once(net, convolution):
        return
    order = torch.arange(layer.out_channels).reshape(4, -1).T.flatten()
    for parameter in layer.parameters():
        parameter.data = parameter.data[order]
    net.set_submodule(str(join.target), _Shuffle())

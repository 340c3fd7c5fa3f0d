"""A convolution and the ReLU after it in one operation of cuDNN's: the map is written once, where three passes over it
would add the bias and clip it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.graphs import input_of, module_of, only_reader, remove, used_once

__all__ = ["fused"]


def fused(module: nn.Module) -> nn.Module:
    """A network's graph with the same weights for a GPU; the module itself where it is no graph."""
    if not isinstance(module, GraphModule):
        return module
    net = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    for relu, convolution, layer in list(_clipped_convolutions(net)):
        net.set_submodule(str(convolution.target), _Fused(layer))
        remove(relu)
    net.recompile()
    return net


def _clipped_convolutions(net: GraphModule) -> Iterator[tuple[Node, Node, nn.Conv2d]]:
    """ReLUs that alone read a convolution, and that convolution."""
    for node in net.graph.nodes:
        relu = isinstance(module_of(net, node), nn.ReLU) or node.target in (functional.relu, torch.relu, torch.relu_)
        if not relu or not only_reader(input_of(node), node):
            continue
        convolution = input_of(node)
        layer = module_of(net, convolution)
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and used_once(net, convolution):
            yield node, convolution, layer


class _Fused(nn.Module):
    """``layer``, and then a ReLU."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        # Autocast does not know this operation.
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        with torch.autocast("cuda", enabled=False):
            made: Tensor = torch.cudnn_convolution_relu(
                x.to(dtype), layer.weight.to(dtype), bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )
            return made

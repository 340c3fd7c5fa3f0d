"""On a GPU, a convolution and the ReLU after it in one operation of cuDNN's: the map is written once, where two more
passes over it would add the bias and clip it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.engines.devices import is_out_of_memory
from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.graphs import input_of, module_of, only_reader, remove, used_once
from urst_tiles.networks.padding import round_up
from urst_tiles.networks.tracing import copy_sharing_weights

__all__ = ["AGREE", "fused", "fused_where_it_agrees"]

_log = logging.getLogger(__name__)

AGREE = 0.02
"""Of 0 … 1, in the mean, that two ways to compute a network may be apart: roundings are, in 16 bits and with the values
that noise makes; a kernel that computes something else is further off."""

_TRIED = 64
"""Side of what is kept of the noise that both are tried with, in pixels, at least."""


def fused_where_it_agrees(network: AnySizeNetwork, device: torch.device) -> AnySizeNetwork:
    """A network with the same weights, its ReLUs inside its convolutions; the network itself where there are none, or
    where this device's libraries do not do so, or make another picture. To be called as the network is: in the same
    modes, on the same stream.
    """
    joined = fused(network)
    if joined is network:
        return network
    side = round_up(max(network.minimum, 2 * network.halo) + _TRIED, network.stride)
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        off = float((_on_no_numbers(joined, noise) - network(noise)).abs().mean())
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        _log.info("biases and ReLUs stay by themselves: %s", str(error).partition("\n")[0])
        return network
    if off > AGREE:
        _log.info("biases and ReLUs stay by themselves: joined, they make a picture that is off by %.2g", off)
        return network
    return joined


def _on_no_numbers(network: AnySizeNetwork, given: Tensor) -> Tensor:
    """What a network makes where the memory it is given holds no numbers: what is read of that before it is written
    shows."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        torch.full((1 << 22,), float("nan"), dtype=dtype, device=given.device)
    result: Tensor = network(given)
    return result


def fused(network: AnySizeNetwork) -> AnySizeNetwork:
    """A network with the same weights, its ReLUs inside its convolutions; the network itself where there are none."""
    module = network.module
    if not isinstance(module, GraphModule):
        return network
    net = copy_sharing_weights(module)
    found = list(_clipped_convolutions(net))
    for relu, convolution, layer in found:
        net.set_submodule(str(convolution.target), _Fused(layer))
        remove(relu)
    net.recompile()
    if not found:
        return network
    return network.with_module(net)


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

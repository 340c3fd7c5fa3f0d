"""A frozen network for windows inside a raster, whose rims are cut off: what is invented beyond a window's edges is in
no pixel that is kept, so that convolutions may take zeros for it.

A pad copies its map before the convolution; zeros a convolution takes without reading them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn
from torch.fx import GraphModule, Node

from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.graphs import input_of, module_of, only_reader, remove, used_once

__all__ = ["interior"]

_Pad = nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ZeroPad2d


def interior(network: FrozenNetwork) -> FrozenNetwork:
    """A network with the same weights that gives the same pixels wherever at least the halo lies between them and the
    window's edges: by the halo's definition, nothing they are made of reaches beyond those.

    The network itself where there is nothing to leave out: it is no graph, say.
    """
    if not isinstance(network.module, GraphModule):
        return network
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})
    net = copied.module
    if not isinstance(net, GraphModule):
        raise TypeError("a copied graph is no graph")
    found = list(_left_to_convolutions(net))
    for node, pad, convolution in found:
        convolution.padding = (pad.padding[2], pad.padding[0])
        remove(node)
    net.delete_all_unused_submodules()
    net.recompile()
    return copied if found else network


def _left_to_convolutions(net: GraphModule) -> Iterator[tuple[Node, _Pad, nn.Conv2d]]:
    """Pads, as wide on opposite sides, that one convolution alone reads, and that convolution, which does not pad."""
    for node in net.graph.nodes:
        pad, reader = module_of(net, node), next(iter(node.users), None)
        if not isinstance(pad, _Pad) or reader is None or not only_reader(node, reader):
            continue
        left, right, top, bottom = pad.padding
        layer = module_of(net, reader)
        if (left, top) != (right, bottom) or min(left, top) < 0 or not isinstance(layer, nn.Conv2d):
            continue
        plain = layer.padding == (0, 0) and layer.padding_mode == "zeros"
        if plain and input_of(reader) is node and used_once(net, reader):
            yield node, pad, layer

"""A frozen network for windows inside a raster, whose rims are cut off.

What is invented beyond a window's edges is in no pixel that is kept, by the halo's definition: nothing needs to be
padded, and nothing that hangs on a pad needs to be computed. A convolution that does not pad gives less on every side::

    window   ┌──────────────┐    conv    ┌────────────┐     conv, doubled     ┌──────────┐     kept   ┌────────┐
    maps     │              │  ───────►  │            │  ───────►    ───────► │          │  ───────►  │        │
             └──────────────┘            └────────────┘                       └──────────┘            └────────┘

How far a map is trimmed is counted in its own positions, alike on all sides. By steps of two, every second position is
the same one only of a map that is trimmed by an even number: there, a convolution before keeps its zeros.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.footprint import multiply_adds_at
from urst_tiles.networks.graphs import input_of, module_of, only_reader, remove, used_once
from urst_tiles.networks.normalization import ChannelAffine, Leaf
from urst_tiles.networks.phases import Interleave
from urst_tiles.networks.quads import Shuffle
from urst_tiles.networks.tracing import copy_sharing_weights

__all__ = ["Trim", "interior", "work_inside"]

_Pad = nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ZeroPad2d
_Pool = nn.MaxPool2d | nn.AvgPool2d
_Pointwise = nn.ReLU | nn.LeakyReLU | nn.ELU | nn.Sigmoid | nn.Tanh | nn.Hardtanh | ChannelAffine
_POINTWISE = (torch.relu_, torch.relu, functional.relu, torch.sigmoid, torch.tanh)
_JOINING = (operator.add, operator.iadd, operator.sub, operator.mul, torch.add, torch.cat)


def interior(network: AnySizeNetwork) -> AnySizeNetwork:
    """A network with the same weights whose result lacks ``trimmed`` pixels on each side, no more than the halo, and is
    the same in all that lie a halo from the window's edges.

    Where layers are not known here, maps are not trimmed, and zeros are all that convolutions pad with. The network
    itself where nothing pads, or it is no graph.
    """
    if not isinstance(network.module, GraphModule):
        return network
    net = copy_sharing_weights(network.module)
    trims = _decided(net)
    if not any(trims.widths.values()):
        return network
    trims.apply(net)
    net.graph.lint()
    net.delete_all_unused_submodules()
    net.recompile()
    trimmed = trims.of[next(node for node in net.graph.nodes if node.op == "output")]
    return network.with_module(net, trimmed=trimmed)


def work_inside(network: AnySizeNetwork, window: int) -> float:
    """Multiplications of a window inside a raster over those of one at its borders, both ``window`` px wide and high.

    Raises:
        NetworkError: the graph cannot be recorded.
    """
    within = interior(network)
    return 1.0 if within is network else multiply_adds_at(within, window) / multiply_adds_at(network, window)


class Trim(Leaf):
    """A map without ``width`` positions on each side; a view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.width : -self.width, self.width : -self.width]

    def extra_repr(self) -> str:
        return str(self.width)


class _UnknownError(Exception):
    """A layer that is not known here, or maps that do not fit together."""


class _MisalignedError(Exception):
    """``node`` steps over a map that is trimmed by a number that is no multiple of its step."""

    def __init__(self, node: Node, step: int, rest: int) -> None:
        super().__init__(node)
        self.node, self.step, self.rest = node, step, rest


@dataclass
class _Trims:
    """How far each node's map is trimmed, while they are told from first to last."""

    widths: dict[Node, int]
    # of what convolutions, or pads that they alone read, put around their maps, where it is alike on all sides
    valid: set[Node]
    # convolutions that do not pad
    of: dict[Node, int] = field(default_factory=dict)

    def tell(self, net: GraphModule) -> None:
        for node in net.graph.nodes:
            self.of[node] = self._of(net, node)

    def _of(self, net: GraphModule, node: Node) -> int:
        before = max((self.of[each] for each in node.all_input_nodes), default=0)
        layer = module_of(net, node)
        several = len(node.all_input_nodes) > 1
        if node.op in ("placeholder", "output") or (node.op == "call_function" and node.target in _JOINING):
            return before
        if several or node.op not in ("call_module", "call_function"):
            raise _UnknownError
        if isinstance(layer, nn.Conv2d):
            if node in self.valid:
                return before + self.widths[node]
            return _stepped(node, before, layer.stride)
        if isinstance(layer, _Pool):
            return _stepped(node, before, layer.stride)
        if isinstance(layer, nn.ConvTranspose2d):
            return before * _alike(layer.stride)
        if isinstance(layer, nn.Upsample) and not layer.align_corners:
            return before * _alike(layer.scale_factor)
        if isinstance(layer, Interleave | Shuffle):
            return 2 * before
        if isinstance(layer, _Pad | _Pointwise) or node.target in _POINTWISE:
            return before
        raise _UnknownError

    def apply(self, net: GraphModule) -> None:
        for node, width in self.widths.items():
            if _pads(net, node):
                remove(input_of(node))
            layer = module_of(net, node)
            if isinstance(layer, nn.Conv2d):
                layer.padding = (0, 0) if node in self.valid else (width, width)
        for node in list(net.graph.nodes):
            for given in node.all_input_nodes if node.target in _JOINING else ():
                width = self.of[node] - self.of[given]
                if width:
                    name = f"{given.name}_trimmed_by_{width}"
                    net.add_submodule(name, Trim(width))
                    with net.graph.inserting_before(node):
                        node.replace_input_with(given, net.graph.call_module(name, (given,)))


def _decided(net: GraphModule) -> _Trims:
    """With as few convolutions that pad as steps allow."""
    widths = {node: width for node in net.graph.nodes if (width := _around(net, node)) is not None}
    valid = {node for node in widths if module_of(net, node).stride == (1, 1) and widths[node]}  # type: ignore[union-attr]
    while True:
        trims = _Trims(widths, valid)
        try:
            trims.tell(net)
        except _UnknownError:
            return _Trims(widths, set(), dict.fromkeys(net.graph.nodes, 0))
        except _MisalignedError as error:
            valid = valid - (_to_be_padded(net, error, widths, valid) or valid)
        else:
            return trims


def _to_be_padded(
    net: GraphModule, error: _MisalignedError, widths: dict[Node, int], valid: set[Node]
) -> set[Node] | None:
    """The last convolution before a step whose zeros make it meet the same positions; None: there is none."""
    node = input_of(error.node)
    while node not in valid or widths[node] % error.step != error.rest:
        layer = module_of(net, node)
        resizes = isinstance(layer, _Pool | nn.ConvTranspose2d | nn.Upsample | Interleave | Shuffle)
        resizes = resizes or (isinstance(layer, nn.Conv2d) and layer.stride != (1, 1))
        if resizes or len(node.all_input_nodes) != 1:
            return None
        node = input_of(node)
    return {node}


def _around(net: GraphModule, node: Node) -> int | None:
    """Positions that a convolution, or a pad that it alone reads, puts on each side of its map; None: it is no
    convolution, or those are not alike, or not to be changed."""
    layer = module_of(net, node)
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or not used_once(net, node):
        return None
    pad = module_of(net, input_of(node))
    widths = {*(pad.padding if isinstance(pad, _Pad) and _pads(net, node) else layer.padding)}
    width = widths.pop()
    return width if not widths and isinstance(width, int) and width >= 0 else None


def _pads(net: GraphModule, node: Node) -> bool:
    """Whether a convolution has its map padded by a layer that it alone reads, instead of padding it itself."""
    layer, before = module_of(net, node), input_of(node)
    alone = isinstance(module_of(net, before), _Pad) and only_reader(before, node)
    return alone and isinstance(layer, nn.Conv2d) and layer.padding == (0, 0)


def _stepped(node: Node, before: int, stride: object) -> int:
    step = _alike(stride)
    if before % step:
        raise _MisalignedError(node, step, before % step)
    return before // step


def _alike(sizes: object) -> int:
    """The size that is that of both axes, a whole number."""
    found = set(sizes) if isinstance(sizes, tuple) else {sizes}
    size = found.pop()
    if found or not isinstance(size, int | float) or size != int(size):
        raise _UnknownError
    return int(size)

"""Putting our own convolutions in the place of PyTorch's, in the graph of a frozen network."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from urst_tiles.engines.llvm.convolution import Convolution, Direct, Winograd, gains_by_winograd, interleaves
from urst_tiles.engines.llvm.groups import Grouped, fills_vectors
from urst_tiles.engines.llvm.large import Nested, gains_by_parts
from urst_tiles.engines.llvm.layers import (
    Convolved,
    Doubled,
    Interleaved,
    Interpolated,
    Padded,
    Pooled,
    Scaled,
    Shuffled,
    Writing,
)
from urst_tiles.engines.llvm.maps import Map, Padding
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.networks.graphs import input_of, module_of, relu_after, remove, shapes
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.networks.phases import Interleave
from urst_tiles.networks.quads import Shuffle, of_quads

__all__ = ["convolve"]

_PADS: Mapping[type[nn.Module], Literal["zeros", "reflect", "replicate"]] = MappingProxyType(
    {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.ZeroPad2d: "zeros"}
)
_DOUBLED: Mapping[str, type[Writing]] = MappingProxyType({"nearest": Doubled, "bilinear": Interpolated})
_ADDS = (operator.add, operator.iadd, torch.add)


def convolve(net: GraphModule, minimum: int, stride: int, workshop: Workshop) -> list[Convolution]:
    """Put our convolutions in the place of a network's, with what comes before and after them that they do on the way,
    and layers that write where they are told to in the place of some others. The convolutions, in order.

    Parameters:
        net: changed in place; its weights are float32, on a CPU.
        minimum: least side of an image that it takes, in pixels.
        stride: sides are multiples of it, in pixels.
        workshop: where they are computed.
    """
    known, more = shapes(net, minimum), shapes(net, minimum + stride)
    # Sides are straight lines in the image's.
    even = {node for node in known if all(side % 2 == 0 for side in (*known[node][-2:], *more[node][-2:]))}
    for node in list(net.graph.nodes):
        found = _find(net, node, known, even)
        if found is not None:
            _rewrite(net, found, known, workshop)
    put = [module for node in net.graph.nodes if isinstance(module := module_of(net, node), Convolved)]
    for rewrite in (_pad_on_the_way, _write_ourselves):
        for node in list(net.graph.nodes):
            rewrite(net, node)
    net.graph.lint()
    net.delete_all_unused_submodules()
    net.recompile()
    return [module.convolution for module in put]


@dataclass(frozen=True, slots=True)
class _Found:
    """[pad →] conv [→ + residual] [→ relu] [→ interleave | → pool], as found in a graph: ``chain`` is these nodes. Or,
    in parts: [pad →] conv [→ relu] [→ shuffle], whose layer is what conv and shuffle are together; or, in groups:
    [pad →] conv [→ relu]."""

    chain: tuple[Node, ...]
    layer: nn.Conv2d
    way: Literal["direct", "winograd", "in parts", "in groups"]
    relu: bool
    residual: Node | None = None
    phases: Literal[1, 4] = 1
    pooled: bool = False

    @property
    def pads(self) -> bool:
        """Whether the convolution pads its map itself."""
        return self.way != "direct"


def _find(net: GraphModule, node: Node, known: dict[Node, torch.Size], even: set[Node]) -> _Found | None:
    layer = module_of(net, node)
    if not isinstance(layer, nn.Conv2d) or not _plain(layer):
        return None
    if layer.groups > 1:
        return _find_grouped(net, node, layer)
    if (found := _find_large(net, node, layer)) is not None:
        return found
    chain, residual = [node], None
    relu = relu_after(net, node)
    if relu is None and (add := _add_after(node, known)) is not None:
        chain.append(add)
        residual = next(each for each in add.all_input_nodes if each is not node)
        relu = relu_after(net, add)
    if relu is not None:
        chain.append(relu)
    join = _reader(chain[-1]) if residual is None else None
    phases = 4 if join is not None and isinstance(module_of(net, join), Interleave) else 1
    taps = layer.kernel_size[0] if layer.kernel_size[0] == layer.kernel_size[1] and layer.stride == (1, 1) else 0
    winograd = gains_by_winograd(layer.in_channels, layer.out_channels, taps, phases)
    pooled = join is not None and taps == 3 and chain[-1] in even and _halves(module_of(net, join))
    if not winograd:
        pooled, phases = False, phases if interleaves(layer.out_channels) else 1
    if join is not None and (pooled or phases == 4):
        chain.append(join)
    if winograd:
        chain = _with_pad(net, chain, layer)
    way: Literal["winograd", "direct"] = "winograd" if winograd else "direct"
    phased = cast("Literal[1, 4]", phases)
    return _Found(tuple(chain), layer, way, relu is not None, residual, phased, pooled)


def _find_large(net: GraphModule, node: Node, layer: nn.Conv2d) -> _Found | None:
    """A large kernel that is faster in parts."""
    relu = relu_after(net, node)
    chain = [node] if relu is None else [node, relu]
    join = _reader(chain[-1])
    if join is not None and isinstance(module_of(net, join), Shuffle):
        whole = of_quads(layer)
        if whole is None:
            return None
        layer = whole
        chain.append(join)
    high, wide = layer.kernel_size
    if high != wide or layer.stride != (1, 1) or not gains_by_parts(layer.in_channels, layer.out_channels, high):
        return None
    return _Found(tuple(_with_pad(net, chain, layer)), layer, "in parts", relu is not None)


def _find_grouped(net: GraphModule, node: Node, layer: nn.Conv2d) -> _Found | None:
    if not fills_vectors(layer):
        return None
    relu = relu_after(net, node)
    chain = [node] if relu is None else [node, relu]
    return _Found(tuple(_with_pad(net, chain, layer)), layer, "in groups", relu is not None)


def _with_pad(net: GraphModule, chain: list[Node], layer: nn.Conv2d) -> list[Node]:
    """These nodes, and the pad before them where there is one; never both it and the layer's own."""
    pad = input_of(chain[0])
    return [pad, *chain] if type(module_of(net, pad)) in _PADS and layer.padding == (0, 0) else chain


def _plain(layer: nn.Conv2d) -> bool:
    whole = layer.dilation == (1, 1) and layer.weight.dtype == torch.float32
    return whole and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _halves(layer: nn.Module | None) -> bool:
    """Whether it takes the largest of each 2 x 2."""
    if not isinstance(layer, nn.MaxPool2d) or layer.return_indices:
        return False
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return [each if isinstance(each, tuple) else (each, each) for each in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _reader(node: Node) -> Node | None:
    """The one that reads a node, where it is one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _add_after(node: Node, known: dict[Node, torch.Size]) -> Node | None:
    """A sum of the node's map and another of the same shape."""
    reader = _reader(node)
    if reader is None or reader.op != "call_function" or reader.target not in _ADDS or reader.kwargs:
        return None
    terms = [each for each in reader.args if isinstance(each, Node)]
    if len(terms) != 2 or len(reader.args) != 2 or terms[0] is terms[1]:
        return None
    return reader if all(known.get(each) == known[node] for each in terms) else None


def _rewrite(net: GraphModule, found: _Found, known: dict[Node, torch.Size], workshop: Workshop) -> None:
    first, last = found.chain[0], found.chain[-1]
    source = input_of(first)
    if not found.pads and found.layer.padding != (0, 0):
        source = _padded(net, first, found.layer)
    module = Convolved(_convolution(net, found), workshop)
    name = f"convolved_{last.name}"
    net.add_submodule(name, module)
    with net.graph.inserting_after(last):
        done = net.graph.call_module(name, (source,) if found.residual is None else (source, found.residual))
    known[done] = known[last]
    last.replace_all_uses_with(done)
    for node in reversed(found.chain):
        if not node.users:  # a pad may have other readers
            net.graph.erase_node(node)


def _convolution(net: GraphModule, found: _Found) -> Convolution:
    layer = found.layer
    weight = _numbers(layer.weight)
    bias = _numbers(torch.zeros(layer.out_channels) if layer.bias is None else layer.bias)
    step = cast("tuple[int, int]", layer.stride)
    if not found.pads:
        return Direct(weight, bias, step, relu=found.relu, adds=found.residual is not None, phases=found.phases)
    first = module_of(net, found.chain[0])
    padding = _padding(first if type(first) in _PADS else layer)
    if found.way == "in parts":
        return Nested(weight, bias, padding, relu=found.relu)
    if found.way == "in groups":
        return Grouped(weight, bias, layer.groups, step, padding, relu=found.relu)
    return Winograd(weight, bias, padding, relu=found.relu, phases=found.phases, pooled=found.pooled)


def _padded(net: GraphModule, node: Node, layer: nn.Conv2d) -> Node:
    """What a convolution reads, padded by a layer of its own."""
    high, wide = cast("tuple[int, int]", layer.padding)
    name = f"padded_{node.name}"
    net.add_submodule(name, nn.ZeroPad2d((wide, wide, high, high)))
    with net.graph.inserting_before(node):
        return net.graph.call_module(name, (input_of(node),))


def _pad_on_the_way(net: GraphModule, node: Node) -> None:
    """Let a convolution write its result padded, where a pad alone reads it."""
    module, reader = module_of(net, node), _reader(node)
    pad = None if reader is None else module_of(net, reader)
    if not isinstance(module, Convolved) or reader is None or type(pad) not in _PADS:
        return
    module.convolution.margin = _padding(pad)
    remove(reader)


def _write_ourselves(net: GraphModule, node: Node) -> None:
    """Put a layer that writes where it is told to in the place of one that is no convolution."""
    layer = module_of(net, node)
    relu = relu_after(net, node) if isinstance(layer, ChannelAffine) else None
    ours = _writing(layer, relu=relu is not None)
    if ours is None:
        return
    name = f"written_{node.name}"
    net.add_submodule(name, ours)
    with net.graph.inserting_after(node):
        done = net.graph.call_module(name, (input_of(node),))
    (relu or node).replace_all_uses_with(done)
    for each in (relu, node):
        if each is not None:
            net.graph.erase_node(each)


def _writing(layer: nn.Module | None, *, relu: bool) -> Writing | None:
    """The layer of ours that does what one of these does: a pad, doubling, pooling, interleaving, shuffle, or scale and
    shift; None: there is none."""
    if type(layer) in _PADS:
        return Padded(_padding(layer))
    if isinstance(layer, nn.Upsample) and layer.scale_factor in (2.0, (2.0, 2.0)) and not layer.align_corners:
        doubled = _DOUBLED.get(layer.mode)
        return None if doubled is None else doubled()
    if isinstance(layer, Interleave):
        return Interleaved()
    if isinstance(layer, Shuffle):
        return Shuffled()
    if _halves(layer) and not layer.ceil_mode:  # type: ignore[union-attr]
        return Pooled()
    if isinstance(layer, ChannelAffine):
        return Scaled(layer.scale, layer.shift, relu=relu)
    return None


def _padding(layer: nn.Module | None) -> Padding:
    """That of a convolution or of a pad."""
    if isinstance(layer, nn.Conv2d):
        high, wide = cast("tuple[int, int]", layer.padding)
        return Padding(wide, wide, high, high)
    left, right, top, bottom = cast("tuple[int, int, int, int]", layer.padding)  # type: ignore[union-attr]
    return Padding(left, right, top, bottom, _PADS[type(layer)])  # type: ignore[index]


def _numbers(values: Tensor) -> Map:
    return cast("Map", values.detach().contiguous().numpy())

"""Freezing: a network and its statistics become a plain convolution net.

Each norm is a constant scale and shift per channel once its statistics are known. Where it stands next to a
convolution it folds into the weights, exactly::

    conv → affine                       W'  = scale · W,   b' = scale · b + shift          (per output channel)
    affine → [pad →] [upsample →] conv  W'  = W · scale,   b' = b + Σ W · shift            (per input channel)

The second form needs a padding that copies pixels (reflect, replicate): it commutes with the affine. Zeros do not. All
of it is computed in float64. What cannot be folded stays a :class:`ChannelAffine`.

Each rewrite is one pass over the :mod:`torch.fx` graph; another one (upsampling in phases, say) is another function in
``PASSES``.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.nn import functional

from urst_tiles.networks.moments import Moments
from urst_tiles.networks.normalization import (
    ChannelAffine,
    Leaf,
    constant_affine,
    frozen_norm,
    is_norm,
)

__all__ = ["flatten", "freeze", "replace_norms"]

_log = logging.getLogger(__name__)

Convolution = nn.Conv2d | nn.ConvTranspose2d
_COPYING_MODULES = (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.UpsamplingNearest2d)


def freeze(module: nn.Module, moments: Mapping[str, Moments]) -> nn.Module:
    """The same network with its statistics folded in. The module given is left as it is.

    ``moments`` has an entry for each norm layer, by its name in ``module``. The result computes in the module's dtype,
    has no norm layer left, needs no gradient, and keeps its feature maps channels last: on a CPU that is faster, and it
    is what oneDNN computes with, so that no convolution copies its input first.
    """
    weights = (tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point())
    dtype = next(weights, torch.float32)
    frozen = flatten(replace_norms(copy.deepcopy(module).double(), moments, frozen_norm))
    if isinstance(frozen, GraphModule):
        for rewrite in PASSES:
            rewrite(frozen)
        frozen.graph.lint()
        frozen.delete_all_unused_submodules()
        frozen.recompile()
    frozen = frozen.to(dtype).eval().requires_grad_(requires_grad=False)
    channels_last: nn.Module = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def flatten(module: nn.Module) -> nn.Module:
    """The same layers called one after another from one graph, or the module itself where it cannot be traced.

    A graph drops each feature map after its last reader. Nested modules cannot: every caller on the way down holds its
    argument until the call returns.
    """
    try:
        graph = _LeafTracer().trace(module)
    except (TypeError, RuntimeError, ValueError, AttributeError, torch.fx.proxy.TraceError) as error:
        # A forward that branches on shapes, say. It works as it is, only not as lean.
        _log.info("%s stays as it is, its layers are not joined: %s", type(module).__name__, error)
        return module
    for node in graph.nodes:
        node.type = None  # annotations are strings here, which a pickled graph cannot import
    return GraphModule(module, graph, type(module).__name__)


def replace_norms(
    module: nn.Module, moments: Mapping[str, Moments], make: Callable[[nn.Module, Moments], nn.Module]
) -> nn.Module:
    """A copy of the network with ``make(norm, moments)`` in the place of each norm layer, and constants for running
    statistics.
    """
    changed = copy.deepcopy(module)
    for name, layer in list(changed.named_modules()):
        replacement: nn.Module | None = (
            make(layer, moments[name]) if is_norm(layer) and name in moments else constant_affine(layer)
        )
        if replacement is not None:
            reference = next((t for t in changed.parameters() if t.is_floating_point()), torch.empty(0))
            replacement = replacement.to(device=reference.device, dtype=reference.dtype)
            if not name:
                return replacement
            changed.set_submodule(name, replacement)
    return changed


class _LeafTracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Leaf) or super().is_leaf_module(m, module_qualified_name)


def _tidy(net: GraphModule) -> None:
    """Drop layers that do nothing."""
    for node in list(net.graph.nodes):
        if isinstance(_module(net, node), nn.Identity | nn.Dropout | nn.Dropout2d):
            _remove(net.graph, node)


def _fold_affines(net: GraphModule) -> None:
    """Fold every affine that stands next to a convolution, or to another affine."""
    for node in list(net.graph.nodes):
        if isinstance(_module(net, node), ChannelAffine):
            _ = _fold_into_affine(net, node) or _fold_backwards(net, node) or _fold_forwards(net, node)


def _fold_into_affine(net: GraphModule, node: Node) -> bool:
    """affine → affine: the second takes up the first."""
    first, second = _module(net, source := _source(node)), _module(net, node)
    if not (isinstance(first, ChannelAffine) and isinstance(second, ChannelAffine)):
        return False
    if not (_only_reader(source, node) and _used_once(net, source) and _used_once(net, node)):
        return False
    second.shift = second.shift + second.scale * first.shift
    second.scale = second.scale * first.scale
    _remove(net.graph, source)
    return False  # the second one still looks for a convolution


def _fold_backwards(net: GraphModule, node: Node) -> bool:
    """conv → affine."""
    source, affine = _source(node), _module(net, node)
    convolution = _module(net, source)
    if not isinstance(convolution, Convolution) or not isinstance(affine, ChannelAffine):
        return False
    if not (_only_reader(source, node) and _used_once(net, source)):
        return False
    weight = convolution.weight
    if isinstance(convolution, nn.ConvTranspose2d):  # (in, out / groups, h, w)
        per_group = affine.scale.reshape(convolution.groups, 1, -1).expand(
            -1, weight.shape[0] // convolution.groups, -1
        )
        scaled = weight * per_group.reshape(*weight.shape[:2], 1, 1)
    else:
        scaled = weight * affine.scale[:, None, None, None]
    bias = affine.shift if convolution.bias is None else convolution.bias * affine.scale + affine.shift
    _assign(convolution, scaled, bias)
    _remove(net.graph, node)
    return True


def _fold_forwards(net: GraphModule, node: Node) -> bool:
    """affine → [pad →] [upsample →] conv."""
    target, affine = node, _module(net, node)
    while len(target.users) == 1:
        target = next(iter(target.users))
        if not _copies_pixels(net, target):
            break
    convolution = _module(net, target)
    if not isinstance(convolution, nn.Conv2d) or not isinstance(affine, ChannelAffine) or len(node.users) != 1:
        return False
    pads_zeros = convolution.padding_mode == "zeros" and convolution.padding not in (0, (0, 0), "valid")
    if not _used_once(net, target) or (pads_zeros and bool(affine.shift.any())):
        return False
    weight = convolution.weight  # (out, in / groups, h, w)
    group = torch.arange(weight.shape[0], device=weight.device) // (weight.shape[0] // convolution.groups)
    scale = affine.scale.reshape(convolution.groups, -1)[group]  # (out, in / groups)
    shift = affine.shift.reshape(convolution.groups, -1)[group]
    added = (weight.sum(dim=(2, 3)) * shift).sum(dim=1)
    _assign(
        convolution, weight * scale[:, :, None, None], added if convolution.bias is None else convolution.bias + added
    )
    _remove(net.graph, node)
    return True


def _relu_in_place(net: GraphModule) -> None:
    """Let a ReLU overwrite its input where nothing else reads it: one feature map less at the peak."""
    for node in list(net.graph.nodes):
        function = (
            isinstance(_module(net, node), nn.ReLU)
            or (node.op == "call_function" and node.target in (functional.relu, torch.relu))
            or (node.op == "call_method" and node.target == "relu")
        )
        if not function or not _is_fresh(net, source := _source(node)) or not _only_reader(source, node):
            continue
        with net.graph.inserting_after(node):
            replacement = net.graph.call_function(torch.relu_, (source,))
        node.replace_all_uses_with(replacement)
        net.graph.erase_node(node)


def _pad_before_upsampling(net: GraphModule) -> None:
    """upsample → reflect pad → conv → [relu]  becomes  replicate pad → upsample → conv → [relu →] crop, bit for bit.

    Padding a map of four times the area copies all of it, at the very moment when memory is fullest. Reflected by less
    than the factor, the upsampled edge is the edge pixel again, so one replicated pixel before upsampling gives it::

        low a b c …    up a a b b c c …    reflected by 1: a|a a b b …    replicated, up: a a|a a b b …
    """
    for node in list(net.graph.nodes):
        chain = _pad_of_upsampled(net, node)
        if chain is None:
            continue
        pad, convolution, factor, width = chain
        with net.graph.inserting_before(node):
            padded = net.graph.call_function(functional.pad, (_source(node), [1, 1, 1, 1], "replicate"))
        node.replace_input_with(_source(node), padded)
        _remove(net.graph, pad)
        last = convolution
        if len(last.users) == 1 and (reader := next(iter(last.users))).target is torch.relu_:
            last = reader
        with net.graph.inserting_after(last):
            cropped = net.graph.call_function(_crop, (last, factor - width))
        for reader in [user for user in last.users if user is not cropped]:
            reader.replace_input_with(last, cropped)


def _crop(x: Tensor, width: int) -> Tensor:
    """Without ``width`` positions on each side. A view."""
    return x[..., width:-width, width:-width]


def _pad_of_upsampled(net: GraphModule, node: Node) -> tuple[Node, Node, int, int] | None:
    """(pad, convolution, upsampling factor, pad width) where ``node`` upsamples for the pass above."""
    upsample = _module(net, node)
    if not isinstance(upsample, nn.Upsample) or upsample.mode != "nearest" or len(node.users) != 1:
        return None
    factors, pad = upsample.scale_factor, next(iter(node.users))
    factor = factors[0] if isinstance(factors, tuple) and len(set(factors)) == 1 else factors
    padding = _module(net, pad)
    if not isinstance(factor, float) or not factor.is_integer():
        return None
    if not isinstance(padding, nn.ReflectionPad2d) or len(set(padding.padding)) != 1 or len(pad.users) != 1:
        return None
    width, convolution = padding.padding[0], next(iter(pad.users))
    layer = _module(net, convolution)
    plain = isinstance(layer, nn.Conv2d) and layer.padding in (0, (0, 0), "valid") and layer.stride == (1, 1)
    return (pad, convolution, int(factor), width) if plain and 0 < width < factor else None


PASSES: tuple[Callable[[GraphModule], None], ...] = (_tidy, _fold_affines, _relu_in_place, _pad_before_upsampling)
"""In order. Each takes the graph of a frozen network in float64 and rewrites it in place."""


def _source(node: Node) -> Node:
    source = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if not isinstance(source, Node):
        raise TypeError(f"{node} does not read another node first")
    return source


def _module(net: GraphModule, node: Node) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_reader(source: Node, node: Node) -> bool:
    return list(source.users) == [node]


def _used_once(net: GraphModule, node: Node) -> bool:
    """Whether this is the only call of its module: shared weights must not be changed for one of two callers."""
    module = _module(net, node)
    return sum(_module(net, other) is module for other in net.graph.nodes if other.op == "call_module") == 1


def _copies_pixels(net: GraphModule, node: Node) -> bool:
    """Operations whose every output pixel is one of the input's: they commute with a scale and shift."""
    module = _module(net, node)
    if isinstance(module, nn.Upsample):
        return module.mode == "nearest"
    if node.op == "call_function" and node.target is functional.pad:
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        return mode in ("reflect", "replicate")
    if node.op == "call_function" and node.target is functional.interpolate:
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")
        return mode == "nearest"
    return isinstance(module, _COPYING_MODULES)


def _is_fresh(net: GraphModule, node: Node) -> bool:
    """Whether a node's value is a tensor of its own, not the caller's image and not a view of something."""
    if node.op == "call_function":
        return node.target in (operator.add, operator.sub, operator.mul, torch.add, torch.cat)
    return isinstance(_module(net, node), Convolution | ChannelAffine)


def _assign(convolution: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    convolution.weight = nn.Parameter(weight.detach(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.detach(), requires_grad=False)


def _remove(graph: Graph, node: Node) -> None:
    node.replace_all_uses_with(_source(node))
    graph.erase_node(node)

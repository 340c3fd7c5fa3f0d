"""Rewrites of a network's graph that change no pixel and hold less memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.graphs import channels_last, flatten, input_of, is_fresh, module_of, only_reader, remove

__all__ = ["lean", "pad_before_upsampling", "relu_in_place", "tidy"]


def lean(module: nn.Module) -> nn.Module:
    """The same layers in one graph with all of these rewrites, as far as the module can be traced.

    The layers are shared with the module given; the layout of their weights changes, their values do not.
    """
    net = flatten(module)
    if isinstance(net, GraphModule):
        for rewrite in (tidy, relu_in_place, pad_before_upsampling):
            rewrite(net)
        net.recompile()
    return channels_last(net)


def tidy(net: GraphModule) -> None:
    """Drop layers that do nothing."""
    for node in list(net.graph.nodes):
        if isinstance(module_of(net, node), nn.Identity | nn.Dropout | nn.Dropout2d):
            remove(node)


def relu_in_place(net: GraphModule) -> None:
    """Let a ReLU overwrite its input where nothing else reads it: one feature map less at the peak."""
    for node in list(net.graph.nodes):
        function = (
            isinstance(module_of(net, node), nn.ReLU)
            or (node.op == "call_function" and node.target in (functional.relu, torch.relu))
            or (node.op == "call_method" and node.target == "relu")
        )
        if not function or not is_fresh(net, source := input_of(node)) or not only_reader(source, node):
            continue
        with net.graph.inserting_after(node):
            replacement = net.graph.call_function(torch.relu_, (source,))
        node.replace_all_uses_with(replacement)
        net.graph.erase_node(node)


def pad_before_upsampling(net: GraphModule) -> None:
    """upsample → reflect pad → conv → [relu]  becomes  replicate pad → upsample → conv → [relu →] crop, bit for bit.

    Padding a map of four times the area copies all of it, at the very moment when memory is fullest. Reflected by less
    than the factor, the upsampled edge is the edge pixel again, so one replicated pixel before upsampling gives it::

        low a b c …    up a a b b c c …    reflected by 1: a|a a b b …    replicated, up: a a|a a b b …

    Not where a reflection pad reads the crop and would have to copy it: see :func:`_costs_more_than_it_saves`.
    """
    for node in list(net.graph.nodes):
        chain = _pad_of_upsampled(net, node)
        if chain is None:
            continue
        pad, convolution, factor, width = chain
        last = convolution
        if len(last.users) == 1 and (reader := next(iter(last.users))).target is torch.relu_:
            last = reader
        if _costs_more_than_it_saves(net, convolution, last):
            continue
        with net.graph.inserting_before(node):
            padded = net.graph.call_function(functional.pad, (input_of(node), [1, 1, 1, 1], "replicate"))
        node.replace_input_with(input_of(node), padded)
        remove(pad)
        with net.graph.inserting_after(last):
            cropped = net.graph.call_function(_crop, (last, factor - width))
        for reader in [user for user in last.users if user is not cropped]:
            reader.replace_input_with(last, cropped)


def _costs_more_than_it_saves(net: GraphModule, convolution: Node, last: Node) -> bool:
    """Whether another reflection pad reads ``last``, what the convolution gave, and makes the rewrite no gain.

    Such a pad wants its input in one piece: the crop is copied, and three maps of the convolution's output are held.
    As it stands, two of its input are.
    """
    layer = module_of(net, convolution)
    padded = any(isinstance(module_of(net, reader), nn.ReflectionPad2d) for reader in last.users)
    return padded and isinstance(layer, nn.Conv2d) and 2 * layer.in_channels <= 3 * layer.out_channels


def _crop(x: Tensor, width: int) -> Tensor:
    """Without ``width`` positions on each side. A view."""
    return x[..., width:-width, width:-width]


def _pad_of_upsampled(net: GraphModule, node: Node) -> tuple[Node, Node, int, int] | None:
    """(pad, convolution, upsampling factor, pad width) where ``node`` upsamples for the pass above."""
    upsample = module_of(net, node)
    if not isinstance(upsample, nn.Upsample) or upsample.mode != "nearest" or len(node.users) != 1:
        return None
    factors, pad = upsample.scale_factor, next(iter(node.users))
    factor = factors[0] if isinstance(factors, tuple) and len(set(factors)) == 1 else factors
    padding = module_of(net, pad)
    if not isinstance(factor, float) or not factor.is_integer():
        return None
    if not isinstance(padding, nn.ReflectionPad2d) or len(set(padding.padding)) != 1 or len(pad.users) != 1:
        return None
    width, convolution = padding.padding[0], next(iter(pad.users))
    layer = module_of(net, convolution)
    plain = isinstance(layer, nn.Conv2d) and layer.padding in (0, (0, 0), "valid") and layer.stride == (1, 1)
    return (pad, convolution, int(factor), width) if plain and 0 < width < factor else None

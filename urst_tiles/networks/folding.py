"""Folding scales and shifts, and 1x1 convolutions, into the convolutions beside them.

The two forms are::

    conv → affine                       W'  = scale · W,   b' = scale · b + shift          (per output channel)
    affine → [pad →] [upsample →] conv  W'  = W · scale,   b' = b + Σ W · shift            (per input channel)

The second needs a padding that copies pixels (reflect, replicate): it commutes with the affine. Zeros do not. What
cannot be folded stays a :class:`~urst_tiles.networks.normalization.ChannelAffine`. A 1x1 convolution (a whitening's
matrix, say) folds forwards in the same way, W' = W · M, where that leaves fewer multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from urst_tiles.networks.graphs import Convolution, copies_pixels, input_of, module_of, only_reader, remove, used_once
from urst_tiles.networks.normalization import ChannelAffine

__all__ = ["fold_affines", "fold_pointwise"]


def fold_affines(net: GraphModule) -> None:
    """Fold every affine that stands next to a convolution, or to another affine."""
    for node in list(net.graph.nodes):
        if isinstance(module_of(net, node), ChannelAffine):
            _ = _fold_into_affine(net, node) or _fold_backwards(net, node) or _fold_forwards(net, node)


def _fold_into_affine(net: GraphModule, node: Node) -> bool:
    """affine → affine: the second takes up the first."""
    source = input_of(node)
    first, second = module_of(net, source), module_of(net, node)
    if not (isinstance(first, ChannelAffine) and isinstance(second, ChannelAffine)):
        return False
    if not (only_reader(source, node) and used_once(net, source) and used_once(net, node)):
        return False
    second.shift = second.shift + second.scale * first.shift
    second.scale = second.scale * first.scale
    remove(source)
    return False  # the second one still looks for a convolution


def _fold_backwards(net: GraphModule, node: Node) -> bool:
    """conv → affine."""
    source, affine = input_of(node), module_of(net, node)
    convolution = module_of(net, source)
    if not isinstance(convolution, Convolution) or not isinstance(affine, ChannelAffine):
        return False
    if not (only_reader(source, node) and used_once(net, source)):
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
    remove(node)
    return True


def _fold_forwards(net: GraphModule, node: Node) -> bool:
    """affine → [pad →] [upsample →] conv."""
    target, affine = _read_by(net, node), module_of(net, node)
    convolution = module_of(net, target)
    if not isinstance(convolution, nn.Conv2d) or not isinstance(affine, ChannelAffine):
        return False
    if not used_once(net, target) or (_pads_zeros(convolution) and bool(affine.shift.any())):
        return False
    weight = convolution.weight  # (out, in / groups, h, w)
    group = torch.arange(weight.shape[0], device=weight.device) // (weight.shape[0] // convolution.groups)
    scale = affine.scale.reshape(convolution.groups, -1)[group]  # (out, in / groups)
    shift = affine.shift.reshape(convolution.groups, -1)[group]
    added = (weight.sum(dim=(2, 3)) * shift).sum(dim=1)
    _assign(
        convolution, weight * scale[:, :, None, None], added if convolution.bias is None else convolution.bias + added
    )
    remove(node)
    return True


def fold_pointwise(net: GraphModule) -> None:
    """1x1 conv → [pad →] [upsample →] conv  becomes one convolution, where the first does not narrow the map."""
    for node in reversed(list(net.graph.nodes)):
        first = module_of(net, node)
        if not isinstance(first, nn.Conv2d) or not _is_pointwise(first) or first.in_channels > first.out_channels:
            continue
        target = _read_by(net, node)
        second = module_of(net, target)
        if target is node or not isinstance(second, nn.Conv2d) or second.groups != 1 or not used_once(net, target):
            continue
        bias = first.bias
        if _pads_zeros(second) and bias is not None and bool(bias.any()):
            continue
        weight = torch.einsum("omhw,mi->oihw", second.weight, first.weight[:, :, 0, 0])
        added = torch.zeros_like(second.weight[:, 0, 0, 0])
        if bias is not None:
            added = second.weight.sum(dim=(2, 3)) @ bias
        _assign(second, weight, added if second.bias is None else second.bias + added)
        second.in_channels = first.in_channels
        remove(node)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding in (0, (0, 0), "valid")
        and layer.groups == 1
    )


def _read_by(net: GraphModule, node: Node) -> Node:
    """The only reader of a node, past operations that copy pixels; the node itself where there is none."""
    target = node
    while len(target.users) == 1:
        target = next(iter(target.users))
        if not copies_pixels(net, target):
            return target
    return node


def _pads_zeros(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and layer.padding not in (0, (0, 0), "valid")


def _assign(convolution: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    convolution.weight = nn.Parameter(weight.detach(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.detach(), requires_grad=False)

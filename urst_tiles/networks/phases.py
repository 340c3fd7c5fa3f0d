"""Doubling and then convolving, done at the size before: 2.25 times fewer multiplications, and exact.

Of a picture doubled by repeating each pixel, a 3 x 3 kernel meets the same pixel several times. Along one axis, an even
position of the result is made of low pixels i - 1 and i, an odd one of i and i + 1::

    up   a a b b c c …     even: w0·a + (w1 + w2)·b     odd: (w0 + w1)·b + w2·c

So four kernels of 2 x 2 taps, one for each phase, give all of it from the low map, padded by one. Two taps on a padded
map of n give n + 1 positions; even phases want all but the last, odd ones all but the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from urst_tiles.networks.graphs import input_of, module_of, relu_after, used_once
from urst_tiles.networks.normalization import Leaf

__all__ = ["convolve_in_phases", "phase_kernels"]


@dataclass(frozen=True, slots=True)
class _Doubled:
    """upsample → [pad →] conv, as found in a graph."""

    upsample: Node
    pad: Node | None
    convolution: Node
    padding: type[nn.Module]
    # of the low map, to the same effect


def convolve_in_phases(net: GraphModule) -> None:
    """upsample x2 → [pad 1 →] conv 3x3 [→ relu]  becomes  pad 1 → conv 2x2 [→ relu] → interleave."""
    for node in list(net.graph.nodes):
        found = _doubled(net, node)
        if found is not None:
            _rewrite(net, found)


def phase_kernels(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) → (4·out, in, 2, 2): the four phases one after the other, as :class:`Interleave` takes them."""
    # (phase, tap of 2, tap of 3): which of the three meet the same low pixel; the odd phase first
    taps = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], dtype=weight.dtype, device=weight.device)
    kernels = torch.einsum("atk,bul,oikl->aboitu", taps, taps, weight)
    return kernels.reshape(4 * weight.shape[0], weight.shape[1], 2, 2)


class Interleave(Leaf):
    """(N, 4·C, H + 1, W + 1) → (N, C, 2·H, 2·W): each phase at its positions.

    Four strided copies give a map in one piece, laid out as the phases are. Where a graph is recorded it is written in
    operations that every format knows: with the odd phases first, shuffling them into one map puts the same between its
    outermost positions.
    """

    def forward(self, phases: Tensor) -> Tensor:
        count, depth, height, width = phases.shape
        channels = depth // 4
        # which is so in all threads; who runs the network meanwhile has tensors that are nothing else
        if torch.compiler.is_exporting() and type(phases) is not Tensor:
            ordered = phases.reshape(count, 4, channels, height, width).transpose(1, 2).reshape(phases.shape)
            return functional.pixel_shuffle(ordered, 2)[..., 1:-1, 1:-1]
        shape = (count, channels, 2 * (height - 1), 2 * (width - 1))
        layout = torch.contiguous_format if phases.is_contiguous() else torch.channels_last
        result = torch.empty(shape, dtype=phases.dtype, device=phases.device, memory_format=layout)
        for phase, part in enumerate(torch.split(phases, channels, dim=1)):
            row, col = 1 - phase // 2, 1 - phase % 2
            result[..., row::2, col::2] = part[..., row : height - 1 + row, col : width - 1 + col]
        return result


def _doubled(net: GraphModule, node: Node) -> _Doubled | None:
    if not _doubles(module_of(net, node)) or len(node.users) != 1:
        return None
    pad: Node | None = next(iter(node.users))
    padding = module_of(net, pad) if pad is not None else None
    target = pad
    if isinstance(padding, nn.ReflectionPad2d | nn.ReplicationPad2d):
        # Reflected by one, the doubled edge is the edge pixel again.
        if padding.padding != (1, 1, 1, 1) or pad is None or len(pad.users) != 1:
            return None
        target = next(iter(pad.users))
    else:
        pad = None
    layer = module_of(net, target) if target is not None else None
    if target is None or not isinstance(layer, nn.Conv2d) or not used_once(net, target) or not _plain(layer):
        return None
    if layer.padding_mode != "zeros" or layer.padding not in ((0, 0), (1, 1)) or (layer.padding == (0, 0)) != bool(pad):
        return None
    return _Doubled(node, pad, target, nn.ReplicationPad2d if pad else nn.ZeroPad2d)


def _doubles(layer: nn.Module | None) -> bool:
    if not isinstance(layer, nn.Upsample) or layer.mode != "nearest":
        return False
    return layer.scale_factor in (2.0, (2.0, 2.0))


def _plain(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1


def _rewrite(net: GraphModule, found: _Doubled) -> None:
    convolution, name = found.convolution, str(found.convolution.target)
    net.set_submodule(name, _phased(net.get_submodule(name)))  # type: ignore[arg-type]
    pad = f"{name}_phases_pad"
    join = f"{name}_phases_join"
    net.add_submodule(pad, found.padding(1))
    net.add_submodule(join, Interleave())
    with net.graph.inserting_before(convolution):
        padded = net.graph.call_module(pad, (input_of(found.upsample),))
    convolution.replace_input_with(input_of(convolution), padded)
    for node in (found.pad, found.upsample):
        if node is not None:
            net.graph.erase_node(node)
    last = relu_after(net, convolution) or convolution
    with net.graph.inserting_after(last):
        joined = net.graph.call_module(join, (last,))
    for reader in [user for user in last.users if user is not joined]:
        reader.replace_input_with(last, joined)


def _phased(layer: nn.Conv2d) -> nn.Conv2d:
    phased = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, bias=layer.bias is not None)
    phased.weight = nn.Parameter(phase_kernels(layer.weight.detach()), requires_grad=False)
    if layer.bias is not None:
        phased.bias = nn.Parameter(layer.bias.detach().repeat(4), requires_grad=False)
    return phased

"""Freezing: a network and its statistics become a plain convolution net.

Each norm is a constant scale and shift per channel once its statistics are known, and folds into the convolution beside
it (:mod:`urst_tiles.networks.folding`). All of it is computed in float64.

Each rewrite is one pass over the :mod:`torch.fx` graph; another one is another function in ``PASSES``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.fx import GraphModule

from urst_tiles.networks.folding import fold_affines, fold_pointwise
from urst_tiles.networks.graphs import channels_last, flatten
from urst_tiles.networks.lean import pad_before_upsampling, relu_in_place, tidy
from urst_tiles.networks.moments import Moments
from urst_tiles.networks.normalization import constant_affine, frozen_norm, is_norm
from urst_tiles.networks.phases import convolve_in_phases
from urst_tiles.networks.quads import convolve_in_quads
from urst_tiles.networks.tracing import copy_sharing_weights

__all__ = ["PASSES", "freeze", "replace_norms"]

PASSES: tuple[Callable[[GraphModule], None], ...] = (
    tidy,
    fold_affines,
    fold_pointwise,
    convolve_in_phases,
    relu_in_place,
    pad_before_upsampling,
)
"""In order. Each takes the graph of a frozen network in float64 and rewrites it in place."""


def freeze(
    module: nn.Module, moments: Mapping[str, Moments], *, stride: int | None = None, minimum: int | None = None
) -> nn.Module:
    """The same network with its statistics folded in. The module given is left as it is.

    ``moments`` has an entry for each norm layer, by its name in ``module``. The result computes in the module's dtype,
    has no norm layer left, needs no gradient, and keeps its feature maps channels last. With ``stride`` and ``minimum``
    it is for images whose sides are multiples of the one and at least the other, in pixels.
    """
    weights = (tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point())
    dtype = next(weights, torch.float32)
    frozen = flatten(replace_norms(copy.deepcopy(module).double(), moments, frozen_norm))
    if isinstance(frozen, GraphModule):
        for rewrite in PASSES:
            rewrite(frozen)
        if stride is not None and minimum is not None:
            convolve_in_quads(frozen, stride=stride, minimum=minimum)
        frozen.graph.lint()
        frozen.delete_all_unused_submodules()
        frozen.recompile()
    frozen = frozen.to(dtype).eval().requires_grad_(requires_grad=False)
    return channels_last(frozen)


def replace_norms(
    module: nn.Module,
    moments: Mapping[str, Moments],
    make: Callable[[nn.Module, Moments], nn.Module],
    *,
    share: bool = False,
) -> nn.Module:
    """A copy of the network with ``make(norm, moments)`` in the place of each norm layer, and constants for running
    statistics.

    ``share`` lets the copy have the same tensors as the network, for looking at it only.
    """
    changed = copy_sharing_weights(module) if share else copy.deepcopy(module)
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

"""Copies of feature maps that a network's graph does not show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urst_tiles.networks.padding import round_up

__all__ = ["padding_copy_bytes"]

_LEAST = 64
"""Side of the picture that is tried, in pixels: the larger, the less its maps' rims count."""


def padding_copy_bytes(module: nn.Module, side: int) -> float:
    """Bytes per pixel of the largest map that a reflection pad copies before it pads, 0 where none does.

    Such a pad wants its input in one piece. A map that is a cropped view of a larger one (see
    :func:`urst_tiles.networks.lean.pad_before_upsampling`) is copied first: at the widest layers of a decoder there are
    three maps then where the graph shows two. ``module`` is laid out as it runs; ``side`` is the least that it takes,
    in pixels.
    """
    side = round_up(_LEAST, side)
    found = [0]

    def look(_pad: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if not x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
            found.append(x.nbytes)

    handles = [
        layer.register_forward_pre_hook(look) for layer in module.modules() if isinstance(layer, nn.ReflectionPad2d)
    ]
    weight = next((p for p in module.parameters()), torch.empty(0))
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device))
    finally:
        for handle in handles:
            handle.remove()
    return max(found) / side**2

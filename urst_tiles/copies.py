"""Copies of feature maps that a network's graph does not show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from urst_tiles.networks.padding import round_up

__all__ = ["layout_copy_bytes", "padding_copy_bytes"]

_LEAST = 64
"""Side of the picture that is tried, in pixels: the larger, the less its maps' rims count."""


def padding_copy_bytes(module: nn.Module, side: int) -> float:
    """Bytes per pixel of the largest map that a reflection pad copies before it pads, 0 where none does.

    Such a pad wants its input in one piece. A map that is a cropped view of a larger one (see
    :func:`urst_tiles.networks.lean.pad_before_upsampling`) is copied first: at the widest layers of a decoder there are
    three maps then where the graph shows two. ``module`` is laid out as it runs; ``side`` is the least that it takes,
    in pixels.
    """
    return _largest_input(module, side, nn.ReflectionPad2d, lambda x: not _in_one_piece(x))


def layout_copy_bytes(module: nn.Module, side: int) -> float:
    """Bytes per pixel of the largest map that a convolution or a pad reads: what a GPU copies into another layout.

    On CUDA a reflection or replication pad turns its input into planes, channels first, and gives planes; the
    convolution after it turns those back into channels last. ``module`` and ``side`` as above.
    """
    readers = nn.Conv2d | nn.ConvTranspose2d | nn.ReflectionPad2d | nn.ReplicationPad2d
    return _largest_input(module, side, readers, lambda _: True)


def _in_one_piece(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _largest_input(module: nn.Module, side: int, kinds: object, counts: Callable[[Tensor], bool]) -> float:
    """Bytes per pixel of the largest map that counts among those read by layers of these kinds."""
    side = round_up(_LEAST, side)
    found = [0]

    def look(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if counts(inputs[0]):
            found.append(inputs[0].nbytes)

    handles = [layer.register_forward_pre_hook(look) for layer in module.modules() if isinstance(layer, kinds)]  # type: ignore[arg-type]
    weight = next((p for p in module.parameters()), torch.empty(0))
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device))
    finally:
        for handle in handles:
            handle.remove()
    return max(found) / side**2

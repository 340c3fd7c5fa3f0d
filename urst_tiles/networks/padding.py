"""Reflected pixels on the far edges, so that any size becomes a multiple of the stride."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["extend", "reflected_indices", "round_up"]


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def reflected_indices(length: int, target: int, device: torch.device | None = None) -> Tensor:
    """Indices 0 … length - 1 followed by their reflection, ``target`` in all, int64; on the CPU, or on ``device``.

    The edge is not repeated, and a side too short for one reflection bounces back and forth::

        length 4, target 9:  0 1 2 3 2 1 0 1 2        length 1: 0 0 0 …
    """
    indices = torch.arange(target, device=device)
    if length == 1:
        return torch.zeros_like(indices)
    period = 2 * (length - 1)
    indices %= period
    return torch.where(indices < length, indices, period - indices)


def extend(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) → (N, C, height, width) with reflected pixels at the bottom and on the right; ``x`` itself where it
    fits already.
    """
    # Indices are made where they are read: a GPU would be waited for until it has copied them.
    if x.shape[-2] != height:
        x = x.index_select(-2, reflected_indices(x.shape[-2], height, x.device))
    if x.shape[-1] != width:
        x = x.index_select(-1, reflected_indices(x.shape[-1], width, x.device))
    return x

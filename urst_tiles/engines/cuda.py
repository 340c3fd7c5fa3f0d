"""Batches of windows through a GPU: while one is computed, the next one arrives and the last one leaves.

Three streams, one for each, ordered by events. What crosses the bus stands in pinned memory, so that the copies run by
themselves. Threads call at the same time; each waits for its own batch and for nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor

from urst_tiles.engines.base import Piece

__all__ = ["SLOTS", "Pipeline", "kept_levels", "rounded", "top_of"]

SLOTS = 2
"""Batches on their way at a time: one that is computed, one that arrives or leaves."""

_TYPES: Mapping[str, torch.dtype] = MappingProxyType({"uint8": torch.uint8, "uint16": torch.uint16})
"""Of levels."""

_ONE_AT_A_TIME = threading.Lock()
"""Of all pipelines of a process: what computes may set flags that are the whole process's, as cuDNN's are, and they
must stay until its last kernel has been chosen."""


class Pipeline:
    """Levels in, levels out.

    Parameters:
        device: the GPU.
        compute: (N, H, W, 3) levels on the device, and the pieces they are of → what is kept of each, (3, rows, cols),
            0 … 1, on the device; called by one thread of the process at a time, and what it starts goes to one stream.
    """

    def __init__(self, device: torch.device, compute: Callable[[Tensor, Sequence[Piece]], Sequence[Tensor]]) -> None:
        self._device, self._compute = device, compute
        self._arriving, self._computing, self._leaving = (_stream(device) for _ in range(3))
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._slots.put(_Slot())
        # The weights were moved on a stream of their own.
        torch.cuda.synchronize(device)

    def __call__(self, pieces: Sequence[Piece]) -> None:
        """Put what is kept of each window's result into its place."""
        slot = self._slots.get()
        try:
            given = slot.given.room((len(pieces), *pieces[0].window.shape), _TYPES[pieces[0].window.dtype.name])
            for piece, each in zip(pieces, given.numpy(), strict=True):
                each[:] = piece.window
            try:
                with _ONE_AT_A_TIME, torch.cuda.device(self._device):
                    kept, left = self._start(slot, given, pieces)
                left.synchronize()
            except BaseException:
                # The slot's memory may still be read; the next one to have it writes it.
                self._arriving.synchronize()
                raise
            begin = 0
            for piece in pieces:
                end = begin + piece.place.size
                piece.place[:] = kept[begin:end].view(piece.place.shape).numpy()
                begin = end
        finally:
            self._slots.put(slot)

    def _start(self, slot: _Slot, given: Tensor, pieces: Sequence[Piece]) -> tuple[Tensor, torch.cuda.Event]:
        """Where the levels that are kept will stand, one crop after the other, and the event that says they do."""
        with torch.cuda.stream(self._arriving):
            levels = given.to(self._device, non_blocking=True)
            arrived = self._arriving.record_event()
        self._computing.wait_event(arrived)
        with torch.cuda.stream(self._computing), torch.inference_mode():
            # Their memory is another stream's: it must not be given away before this one has read it.
            levels.record_stream(self._computing)
            made = kept_levels(self._compute(levels, pieces), levels)
            del levels
            computed = self._computing.record_event()
        self._leaving.wait_event(computed)
        with torch.cuda.stream(self._leaving):
            made.record_stream(self._leaving)
            result = slot.result.room(made.shape, made.dtype).copy_(made, non_blocking=True)
            # The host waits for this one. Waiting for a plain event takes a core, which reading and encoding want.
            left = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._leaving.record_event(left)
            return result, left


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Slot:
    """The pinned memory of a batch on its way."""

    def __init__(self) -> None:
        self.given, self.result = _Pinned(), _Pinned()


class _Pinned:
    """Pinned memory that grows to the largest batch and stays."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def room(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """For so many values of a type."""
        size = prod(shape) * dtype.itemsize
        if self._bytes.numel() < size:
            self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._bytes[:size].view(dtype).view(*shape)


def kept_levels(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """What is kept of each window, 0 … 1 → one behind the other in one piece, for one copy across the bus: levels of
    the type of ``like``."""
    kept = torch.empty(sum(part.numel() for part in parts), dtype=like.dtype, device=like.device)
    begin = 0
    for part in parts:
        end = begin + part.numel()
        kept[begin:end].view(part.shape).copy_(rounded(part, top_of(like)))
        begin = end
    return kept


def rounded(part: Tensor, top: float) -> Tensor:
    """0 … 1 → the nearest levels, float32; the part may be written over."""
    return part.float().mul_(top).round_()


def top_of(levels: Tensor) -> float:
    """The highest level of uint8 or uint16."""
    return 255.0 if levels.dtype == torch.uint8 else 65535.0

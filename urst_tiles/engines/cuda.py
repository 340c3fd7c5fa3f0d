"""Batches of windows through a GPU: while one is computed, the next one arrives and the last one leaves.

Three streams, one for each, ordered by events. What crosses the bus stands in pinned memory, so that the copies run by
themselves. Threads call at the same time; each waits for its own batch and for nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from urst_tiles.sources.base import Pixels

__all__ = ["SLOTS", "Pipeline"]

SLOTS = 2
"""Batches on their way at a time: one that is computed, one that arrives or leaves."""

_ONE_AT_A_TIME = threading.Lock()
"""Of all pipelines of a process: what computes may set flags that are the whole process's, as cuDNN's are, and they
must stay until its last kernel has been chosen."""


class Pipeline:
    """Levels in, levels out.

    Parameters:
        device: the GPU.
        compute: (N, H, W, 3) levels on the device → (N, 3, H, W) levels on the device, in one piece; called by one
            thread of the process at a time, and what it starts goes to one stream.
    """

    def __init__(self, device: torch.device, compute: Callable[[Tensor], Tensor]) -> None:
        self._device, self._compute = device, compute
        self._arriving, self._computing, self._leaving = (_stream(device) for _ in range(3))
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._slots.put(_Slot())
        # The weights were moved on a stream of their own.
        torch.cuda.synchronize(device)

    def __call__(self, windows: Pixels) -> Pixels:
        """(N, H, W, 3) → (N, 3, H, W), the type that ``compute`` gives."""
        slot = self._slots.get()
        try:
            given = slot.given.hold(torch.from_numpy(windows))
            try:
                with _ONE_AT_A_TIME, torch.cuda.device(self._device):
                    result, left = self._start(slot, given)
                left.synchronize()
            except BaseException:
                # The slot's memory may still be read; the next one to have it writes it.
                self._arriving.synchronize()
                raise
            # A copy: the slot goes to the next batch.
            return cast("Pixels", result.numpy().copy())
        finally:
            self._slots.put(slot)

    def _start(self, slot: _Slot, given: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Where the result will stand, and the event that says it does."""
        with torch.cuda.stream(self._arriving):
            levels = given.to(self._device, non_blocking=True)
            arrived = self._arriving.record_event()
        self._computing.wait_event(arrived)
        with torch.cuda.stream(self._computing):
            # Their memory is another stream's: it must not be given away before this one has read it.
            levels.record_stream(self._computing)
            made = self._compute(levels)
            del levels
            computed = self._computing.record_event()
        self._leaving.wait_event(computed)
        with torch.cuda.stream(self._leaving):
            made.record_stream(self._leaving)
            result = slot.result.hold(made)
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

    def hold(self, values: Tensor) -> Tensor:
        """The values here; where they come from a GPU, once their stream has come so far."""
        if self._bytes.numel() < values.nbytes:
            self._bytes = torch.empty(values.nbytes, dtype=torch.uint8, pin_memory=True)
        place = self._bytes[: values.nbytes].view(values.dtype).view(values.shape)
        return place.copy_(values, non_blocking=True)

"""What is asked of a device: how much of its memory is free, a limit to it, the peak; float32 in full.

A CPU has none of this: its functions give None or do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from urst_tiles.errors import InputError

__all__ = [
    "CONTEXT",
    "choose_device",
    "exact_products",
    "free_bytes",
    "is_out_of_memory",
    "limit_bytes",
    "peak_bytes",
    "release_cache",
    "why_too_much",
]

CONTEXT = 832 << 20
"""Bytes of a GPU that CUDA's context and the kernels of PyTorch, cuBLAS and cuDNN take, beside all tensors: outside
PyTorch's allocator, so that no limit holds them. 763 MiB on an H200 with CUDA 13 (benchmarks/gpu.py); smaller GPUs take
less."""

_SAYS_SO = ("out of memory", "ALLOC_FAILED")
"""In the messages of CUDA, cuDNN and cuBLAS when they could not allocate for themselves."""

_COUNTS_NO_FURTHER = ("32-bit index math", "INT_MAX elements")
"""In the messages of CUDA's pads and upsamplings, which number the values of a map in 32 bits, all windows of a call
together."""


def choose_device(device: str) -> torch.device:
    """ "auto" is the first CUDA device if there is one, else the CPU.

    Raises:
        InputError: the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"{device} was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    return chosen


def free_bytes(device: torch.device) -> int | None:
    """What this process could have of the device now, :data:`CONTEXT` and what it holds already included.

    Starts CUDA in this process where it has not been started.
    """
    if device.type != "cuda":
        return None
    free, _total = torch.cuda.mem_get_info(device)
    # The context is there already when this is asked, and is not among what is free.
    return free + torch.cuda.memory_reserved(device) + CONTEXT


def limit_bytes(device: torch.device, budget: int | None) -> None:
    """Keep all of this process's tensors and the context within ``budget`` bytes of the device: PyTorch's allocator
    gives no more, and says that the memory ran out. For the whole process, until this is called again; None takes the
    limit away."""
    if device.type != "cuda":
        return
    share = 1.0
    if budget is not None:
        _free, total = torch.cuda.mem_get_info(device)
        share = min(max(budget - CONTEXT, 0) / total, 1.0)
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(share, index)


def peak_bytes(device: torch.device) -> int | None:
    """The most that PyTorch's allocator has held of the device in this process, the context left out."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def release_cache(device: torch.device) -> None:
    """Give what the allocator keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an operation failed because the device's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _SAYS_SO)


def why_too_much(error: RuntimeError) -> str | None:
    """In words, what a call did that fewer or smaller windows would not have: "does not fit into the memory of", to be
    followed by the device. None: it failed for another reason."""
    if is_out_of_memory(error):
        return "does not fit into the memory of"
    if any(words in str(error) for words in _COUNTS_NO_FURTHER):
        return "makes a feature map of 2^31 values or more, too many for PyTorch on"
    return None


@contextlib.contextmanager
def exact_products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """cuDNN's own choice for float32 is TF32, which is off by more than a level; and, of its ways to convolve, one
    whose sums come out in the same order each time.

    The flags are the whole process's: one thread at a time may be here.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    # Not torch.backends.cudnn.flags: it asks for the older of the two names of this setting, which PyTorch refuses to
    # answer where a caller has used the newer one; and with it torch.backends.fp32_precision = "tf32" goes before
    # allow_tf32 = False. PyTorch before 2.9 has the older name only.
    new = hasattr(cudnn, "conv")
    products = (cudnn.conv, "fp32_precision", "tf32" if tf32 else "ieee") if new else (cudnn, "allow_tf32", tf32)
    wanted = ((cudnn, "enabled", True), (cudnn, "benchmark", False), (cudnn, "deterministic", True), products)
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)

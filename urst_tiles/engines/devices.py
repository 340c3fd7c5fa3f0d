"""What is asked of a device's memory: how much is free, a limit, the peak. All of CUDA's own calls are here.

A CPU has none of this: its functions give None or do nothing.
"""

from __future__ import annotations

import torch

from urst_tiles.errors import InputError

__all__ = [
    "CONTEXT",
    "choose_device",
    "free_bytes",
    "is_out_of_memory",
    "limit_bytes",
    "peak_bytes",
    "release_cache",
]

CONTEXT = 640 << 20
"""Bytes of a GPU that CUDA's context and the kernels of PyTorch, cuBLAS and cuDNN take, beside all tensors: outside
PyTorch's allocator, so that no limit holds them. About 300 to 550 MiB are usual; to be measured on a GPU."""

_SAYS_SO = ("out of memory", "ALLOC_FAILED")
"""In the messages of CUDA, cuDNN and cuBLAS when they could not allocate for themselves."""


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


def limit_bytes(device: torch.device, budget: int) -> None:
    """Keep all of this process's tensors and the context within ``budget`` bytes of the device: PyTorch's allocator
    gives no more, and says that the memory ran out. For the whole process, until another limit is set."""
    if device.type != "cuda":
        return
    _free, total = torch.cuda.mem_get_info(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(min(max(budget - CONTEXT, 0) / total, 1.0), index)


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

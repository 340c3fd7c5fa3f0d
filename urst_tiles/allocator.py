"""Give freed memory back to the system at once, so that what a run holds is what it needs.

glibc keeps freed blocks for later, and the larger the blocks that were freed, the larger the ones it keeps: reading
the thumbnail of an 85-megapixel JPEG TIFF leaves 128 MiB behind that are nobody's, against 6 MiB with fixed thresholds
(benchmarks/allocator.py). A memory promise cannot be kept that way. Other C libraries and systems are left as they are.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

__all__ = [
    "ask_for_huge_pages",
    "can_return_memory",
    "free_cycles",
    "return_free_pages",
    "return_freed_memory",
]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_RETURNED_BYTES = 256 << 10
"""Blocks of this size and more go back to the system when they are freed."""


def ask_for_huge_pages() -> None:
    """Have PyTorch ask Linux for pages of 2 MiB for its large blocks, unless THP_MEM_ALLOC_ENABLE says otherwise.

    Blocks that go back when they are freed come anew for every feature map, page by page: with pages of 4 KiB that is
    a third of a network's time (benchmarks/huge_pages.py). PyTorch looks at the variable once, at its first large
    block; processes started from here inherit it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def can_return_memory() -> bool:
    """Whether this is a C library whose thresholds can be set: glibc."""
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def return_freed_memory() -> bool:
    """Make blocks of 256 KiB and more go back to the system when they are freed. For the whole process,
    and for good.

    Returns whether the C library took the setting.
    """
    if not can_return_memory():
        return False
    library = ctypes.CDLL(None)
    # Setting a threshold also ends its growing by itself.
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)) and bool(
        library.mallopt(_M_TRIM_THRESHOLD, _RETURNED_BYTES)
    )


def free_cycles() -> None:
    """Free what is kept alive only by itself.

    torch.fx's graphs and modules know each other: of an engine that is let go, weights and kernels stay until Python
    looks for such cycles by itself, which may be when a run has ended. It looks at all that there is, which takes a
    moment.
    """
    gc.collect()


def return_free_pages() -> None:
    """Give pages back that lie free between smaller blocks: a few ms, for which other threads may have to wait."""
    if can_return_memory():
        ctypes.CDLL(None).malloc_trim(0)

"""Sizes as people write them, and sums that add up."""

from __future__ import annotations

import pytest

from urst_tiles.errors import InputError
from urst_tiles.memory import MemoryEstimate, MemoryPart, MemoryPhase, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 * 2**30), ("1.5 GB", 1_500_000_000), ("800M", 800_000_000), ("4096", 4096), ("3kib", 3072), ("7B", 7)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "2 GiB/s", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1536, "1.50 KiB"), (312 * 2**20, "312 MiB"), (5 * 2**40, "5.00 TiB")]
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_the_estimate_is_the_largest_phase() -> None:
    small = MemoryPhase("pyramid", (MemoryPart("a", 5, ""),))
    large = MemoryPhase("shards", (MemoryPart("a", 3, ""), MemoryPart("b", 4, "")))
    estimate = MemoryEstimate((small, large))
    assert estimate.peak is large
    assert estimate.bytes == 7

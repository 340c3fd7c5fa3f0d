"""The streaming area mean against dense matrices, whatever blocks it is fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources_support import mean_of_areas, picture
from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.shrink import area_mean, shrink_by_strips, thumbnail_size


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    data=st.data(),
    bands=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_equals_the_direct_computation(height: int, width: int, data: st.DataObject, bands: int, dtype: str) -> None:
    out = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    step = data.draw(st.integers(1, height))
    pixels = np.random.default_rng(height * width).integers(0, np.iinfo(dtype).max + 1, (height, width, bands), dtype)
    blocks = (pixels[row : row + step] for row in range(0, height, step))
    found = area_mean(blocks, (width, height), out, bands=bands, dtype=dtype)  # type: ignore[arg-type]
    assert found.dtype == dtype
    assert np.abs(found - mean_of_areas(pixels, *out)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("tile", [(8, 8), (64, 16), (1000, 1000)])
def test_strips_give_what_the_whole_gives(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(211, 307, 3)
    whole = area_mean([pixels], (307, 211), (97, 61), bands=3, dtype="uint8")
    monkeypatch.setattr("urst_tiles.sources.shrink._STRIP_BYTES", 3 * min(tile[1], 211) * 20)  # strips of 20 columns
    seen: list[Window] = []

    def read(window: Window) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        seen.append(window)
        return pixels[window.slices]

    found = shrink_by_strips(read, (307, 211), (97, 61), bands=3, dtype="uint8", tile=tile)
    np.testing.assert_array_equal(found, whole)
    assert max(window.width for window in seen) < 40
    assert max(window.height for window in seen) <= tile[1]


def test_sums_do_not_overflow() -> None:
    """One million white pixels a side in 16 bits: the products of the column sums pass 2^64 and must still come out."""
    rows, width = 3, 1_000_000
    white = np.full((rows, width, 1), 65535, np.uint16)
    found = area_mean([white], (width, rows), (1024, 1), bands=1, dtype="uint16")
    assert (found == 65535).all()


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((4000, 3000), 1024, (1365, 1024)),
        ((3000, 4000), 1024, (1024, 1365)),
        ((100, 80), 1024, (100, 80)),
        ((100_000, 1), 1, (100_000, 1)),
        ((1000, 1000), 1, (1, 1)),
    ],
)
def test_size_of_a_thumbnail(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert thumbnail_size(*size, short_side) == expected


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="short side"):
        thumbnail_size(10, 10, 0)
    with pytest.raises(InputError, match="4 of 6 rows"):
        area_mean([picture(4, 5, 1)], (5, 6), (2, 2), bands=1, dtype="uint8")
    with pytest.raises(InputError, match="does not belong"):
        area_mean([picture(6, 4, 1)], (5, 6), (2, 2), bands=1, dtype="uint8")
    with pytest.raises(InputError, match="cannot be shrunk"):
        area_mean([picture(6, 5, 1)], (5, 6), (6, 2), bands=1, dtype="uint8")

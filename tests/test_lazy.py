"""stylize_array: lazy, and equal to the full run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import picture, write_tiff
from urst_tiles import Window, load_network, open_source, stylize, stylize_array
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.sources.base import RasterInfo


class CountingSource:
    """Another source, and the windows read from it."""

    def __init__(self, path: Path) -> None:
        self._source = open_source(path)
        self.windows: list[Window] = []

    @property
    def info(self) -> RasterInfo:
        return self._source.info

    @property
    def name(self) -> str:
        return "counted"

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def read(self, window: Window) -> Any:
        self.windows.append(window)
        return self._source.read(window)

    def thumbnail(self, short_side: int) -> Any:
        return self._source.thumbnail(short_side)

    def cache_bytes(self, width: int) -> int:
        return 0


@pytest.fixture(scope="module")
def network() -> StyleNetwork:
    return untrained(width=8, seed=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, network: StyleNetwork) -> tuple[Path, NDArray[Any]]:
    """A raster and its full result, (y, x, c)."""
    folder = tmp_path_factory.mktemp("lazy")
    source = write_tiff(folder / "in.tif", picture(330, 410, 4))
    stylize(source, folder / "o.zarr", network=network, window=160, thumbnail=64)
    array = zarr.open_group(folder / "o.zarr", mode="r")["0"]
    return source, np.asarray(array[...]).transpose(1, 2, 0)  # type: ignore[index]


@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_a_slice_equals_the_same_part_of_the_full_result(
    done: tuple[Path, NDArray[Any]], network: StyleNetwork, data: st.DataObject
) -> None:
    source, full = done
    lazy = stylize_array(source, network, window=160, thumbnail=64)
    assert (lazy.shape, lazy.dtype) == (full.shape, full.dtype)
    y, x = data.draw(st.integers(0, 329)), data.draw(st.integers(0, 409))
    part = np.s_[y : y + data.draw(st.integers(1, 80)), x : x + data.draw(st.integers(1, 80))]
    assert (lazy[part].compute() == full[part]).all()


def test_a_slice_reads_only_the_windows_it_touches(done: tuple[Path, NDArray[Any]], network: StyleNetwork) -> None:
    source = CountingSource(done[0])
    lazy = stylize_array(source, network, window=160, thumbnail=64)
    assert source.windows == []
    lazy[50:60, 100:110].compute()
    assert source.windows == [Window(40, 0, 160, 152)]


def test_a_region_is_the_same_part(done: tuple[Path, NDArray[Any]], network: StyleNetwork) -> None:
    source, full = done
    lazy = stylize_array(source, network, window=160, thumbnail=64, region=(30, 40, 200, 100))
    assert (lazy.compute() == full[40:140, 30:230]).all()


def test_arrays_in_memory_and_dask_arrays_are_sources() -> None:
    pixels = picture(70, 90)
    network = load_network("identity")
    assert (stylize_array(pixels, network, window=32).compute() == pixels).all()
    assert (stylize_array(da.from_array(pixels, chunks=(32, 32, 3)), network, window=32).compute() == pixels).all()


def test_its_graph_pickles(done: tuple[Path, NDArray[Any]], network: StyleNetwork) -> None:
    lazy = stylize_array(done[0], network, window=160, thumbnail=64)
    again = pickle.loads(pickle.dumps(lazy))
    assert (again[:20, :20].compute() == done[1][:20, :20]).all()

"""Arrays: NumPy, Dask, Zarr v2 and v3, OME-Zarr 0.4 and 0.5. Axes are found or asked for, metadata is taken."""

from __future__ import annotations

import base64
import pickle
import threading
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources_support import (
    Values,
    assert_mean_of_areas,
    cut,
    mean_of_areas,
    one_line,
    peak_growth_of,
    picture,
    windows,
)
from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.arrays import ArraySource
from urst_tiles.sources.choice import Choice
from urst_tiles.sources.zarr_store import ZarrSource


def stored(path: Path, values: Values, *, zarr_format: Literal[2, 3] = 3, **options: Any) -> Path:
    """Write an array as a Zarr array."""
    chunks = tuple(min(64, length) for length in values.shape)
    array = zarr.create_array(
        store=str(path), shape=values.shape, dtype=values.dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    array[...] = values
    return path


def ome(path: Path, levels: list[Values], *, version: str = "0.5", axes: str = "cyx", **attributes: Any) -> Path:
    """Write an OME-Zarr picture whose pixels are 0.25 (x) and 0.5 (y) micrometres large."""
    group = zarr.create_group(store=str(path), zarr_format=3 if version == "0.5" else 2)
    datasets: list[Any] = []
    kinds = {"t": "time", "c": "channel"}
    described: list[dict[str, str]] = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({} if axis in kinds else {"unit": "micrometer"})
        for axis in axes
    ]
    for number, level in enumerate(levels):
        chunks = tuple(min(64, length) for length in level.shape)
        group.create_array(str(number), shape=level.shape, dtype=level.dtype, chunks=chunks)[...] = level
        factor = 2.0**number
        scale = [{"x": 0.25 * factor, "y": 0.5 * factor}.get(axis, 1.0) for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscales: list[Any] = [{"version": version, "name": "a", "axes": described, "datasets": datasets}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales
    group.attrs.update(attributes)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize(("axes", "bands"), [("yx", 1), ("yxc", 3), ("cyx", 3), ("yxc", 4), ("cyx", 4), ("xcy", 3)])
def test_windows_of_every_kind_of_array(tmp_path: Path, axes: str, bands: int, dtype: str) -> None:
    pixels = picture(150, 210, bands, np.dtype(dtype).name).astype(dtype)
    order = ["yxc".index(axis) for axis in axes]
    values = np.ascontiguousarray(pixels[..., 0] if axes == "yx" else pixels.transpose(order))
    given_axes = axes if axes == "xcy" else None
    lazy = da.from_array(values, chunks=50)
    for array in (
        values,
        lazy,
        stored(tmp_path / "a", values),
        zarr.open(stored(tmp_path / "b", values, zarr_format=2)),
    ):
        source = open_source(array, axes=given_axes)
        assert isinstance(source, Source)
        info = source.info
        assert (info.width, info.height, info.bands) == (210, 150, bands)
        assert (info.dtype, info.random_access) == (np.dtype(dtype).name, True)
        assert (info.colour, info.alpha) == ("grey" if bands == 1 else "rgb", bands == 4)
        for window in windows(210, 150, 4):
            read = source.read(window)
            np.testing.assert_array_equal(read, cut(pixels, window))
            assert read.dtype == np.dtype(dtype).name
            assert read.flags.c_contiguous
            assert read.flags.owndata
            assert read.flags.writeable
        thumbnail = source.thumbnail(40)
        assert thumbnail.shape == (40, 56, bands)
        assert_mean_of_areas(thumbnail, pixels)


def test_reading_never_hands_out_the_array_itself() -> None:
    values = picture(20, 20, 3)
    ArraySource(values).read(Window(0, 0, 20, 20))[:] = 0
    assert values.any()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 70))
def test_any_window_of_any_chunking(data: st.DataObject, chunk: int) -> None:
    values = picture(60, 70, 3)
    source = ArraySource(da.from_array(values, chunks=(chunk, chunk, 3)))
    col, row = data.draw(st.integers(0, 69)), data.draw(st.integers(0, 59))
    window = Window(col, row, data.draw(st.integers(1, 70 - col)), data.draw(st.integers(1, 60 - row)))
    np.testing.assert_array_equal(source.read(window), cut(values, window))


@pytest.mark.parametrize("shape", [(30, 40), (1, 30, 40), (1, 1, 30, 40), (1, 1, 1, 30, 40), (1, 30, 40, 1)])
def test_axes_of_length_one_disappear(shape: tuple[int, ...]) -> None:
    values = picture(30, 40, 1)
    axes = "zyxc" if shape == (1, 30, 40, 1) else None
    np.testing.assert_array_equal(
        ArraySource(values.reshape(shape), Choice(axes=axes)).read(Window(0, 0, 40, 30)), values
    )


@pytest.mark.parametrize(
    ("shape", "axes", "says"),
    [
        ((3, 40, 4), None, "which axes"),
        ((50, 40, 30), None, "which axes"),
        ((2, 5, 3, 40, 50), None, "which axes"),
        ((40,), None, "which axes"),
        ((40, 50), "yxc", "do not fit"),
        ((40, 50, 3), "yyx", "do not fit"),
        ((40, 50, 3), "abc", "do not fit"),
        ((2, 40, 50), "cyx", "2 channels"),
        ((5, 40, 50), "cyx", "5 channels"),
        ((0, 50), None, "nothing in it"),
    ],
)
def test_axes_that_are_not_clear_are_asked_for(shape: tuple[int, ...], axes: str | None, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        ArraySource(np.zeros(shape, np.uint8), Choice(axes=axes))
    assert one_line(str(caught.value))


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool", "uint32", "complex64"])
def test_other_types_are_refused(tmp_path: Path, dtype: str) -> None:
    values = np.zeros((40, 50), dtype)
    for array in (values, da.from_array(values), stored(tmp_path / "a", values)):
        with pytest.raises(SourceError, match=dtype) as caught:
            open_source(array)
        assert one_line(str(caught.value))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc"])
def test_ome_zarr(tmp_path: Path, version: str, axes: str) -> None:
    pixels = picture(400, 520, 3)
    halved = mean_of_areas(pixels, 260, 200).astype(np.uint8)
    levels = [level.transpose(2, 0, 1) if axes != "yxc" else level for level in (pixels, halved)]
    if axes == "tczyx":
        levels = [level[None, :, None] for level in levels]
    source = open_source(ome(tmp_path / "a.zarr", levels, version=version, axes=axes))
    info = source.info
    assert (info.width, info.height, info.bands, info.format) == (520, 400, 3, "zarr")
    assert info.levels == ((260, 200),)
    assert info.resolution == pytest.approx((4000, 2000))
    assert info.tile == (64, 64)
    for window in windows(520, 400, 5):
        np.testing.assert_array_equal(source.read(window), cut(pixels, window))
    # From the level where that is twice as large, else from the full size.
    assert_mean_of_areas(source.thumbnail(100), halved)
    assert_mean_of_areas(source.thumbnail(150), pixels)


def test_what_this_package_writes_into_a_group_is_taken(tmp_path: Path) -> None:
    profile = bytes(range(256)) * 3
    own = {"icc_profile": base64.b64encode(profile).decode(), "resolution": [11.8, 5.9], "alpha": True}
    pixels = picture(60, 70, 4)
    info = open_source(ome(tmp_path / "a.zarr", [pixels.transpose(2, 0, 1)], urst_tiles=own)).info
    assert info.icc_profile == profile
    assert info.resolution == (11.8, 5.9)
    assert info.alpha
    assert info.notes == ()
    grey = picture(60, 70, 2)
    info = open_source(ome(tmp_path / "b.zarr", [grey.transpose(2, 0, 1)], urst_tiles={"alpha": True})).info
    assert (info.colour, info.alpha, info.bands) == ("grey", True, 2)
    assert info.resolution == pytest.approx((4000, 2000))
    with pytest.raises(SourceError, match="4 channels"):
        open_source(ome(tmp_path / "c.zarr", [pixels.transpose(2, 0, 1)], urst_tiles={"alpha": False}))


def test_levels_of_another_picture_are_not_used(tmp_path: Path) -> None:
    pixels = picture(400, 500, 3).transpose(2, 0, 1)
    info = open_source(ome(tmp_path / "a.zarr", [pixels, pixels[:1, ::2, ::2]])).info
    assert info.levels == ()


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"ome": {"multiscales": [{"axes": [{"name": "y"}], "datasets": []}]}}, "damaged"),
        ({"ome": {"multiscales": "none"}}, "damaged"),
        ({"urst_tiles": {"icc_profile": "not base64!"}}, "damaged"),
        ({"ome": {"multiscales": [{"datasets": [{"path": "gone"}]}]}}, "'gone'"),
        ({}, "its arrays: a, b"),
    ],
)
def test_groups_without_a_picture(tmp_path: Path, attributes: dict[str, Any], says: str) -> None:
    group = zarr.create_group(store=str(tmp_path / "a.zarr"), attributes=attributes)
    for name in "ab":
        group.create_array(name, shape=(4, 4), dtype="uint8")
    with pytest.raises(SourceError, match=says) as caught:
        open_source(tmp_path / "a.zarr")
    assert one_line(str(caught.value))


def test_a_group_with_one_array_or_one_series(tmp_path: Path) -> None:
    pixels = picture(60, 70, 3)
    zarr.create_group(store=str(tmp_path / "a.zarr"))
    stored(tmp_path / "a.zarr" / "only", pixels)
    np.testing.assert_array_equal(open_source(tmp_path / "a.zarr").read(Window(0, 0, 70, 60)), pixels)
    zarr.create_group(store=str(tmp_path / "b.zarr"), zarr_format=2, attributes={"bioformats2raw.layout": 3})
    ome(tmp_path / "b.zarr" / "0", [pixels.transpose(2, 0, 1)], version="0.4")
    np.testing.assert_array_equal(open_source(tmp_path / "b.zarr").read(Window(0, 0, 70, 60)), pixels)


def test_axes_named_in_the_array_are_taken(tmp_path: Path) -> None:
    pixels = picture(3, 50, 4)  # three rows: the shape alone is ambiguous
    stored(tmp_path / "a", pixels, dimension_names=["y", "x", "c"])
    info = open_source(tmp_path / "a").info
    assert (info.height, info.width, info.bands) == (3, 50, 4)


def test_sharded_arrays_are_read_by_their_inner_chunks(tmp_path: Path) -> None:
    values = picture(256, 256, 3).transpose(2, 0, 1)
    array = zarr.create_array(
        store=str(tmp_path / "a"), shape=values.shape, dtype="uint8", chunks=(3, 32, 32), shards=(3, 128, 128)
    )
    array[...] = values
    source = open_source(tmp_path / "a")
    assert source.info.tile == (32, 32)
    np.testing.assert_array_equal(source.read(Window(20, 30, 200, 100)), values.transpose(1, 2, 0)[30:130, 20:220])


def test_urls(tmp_path: Path) -> None:
    pixels = picture(60, 70, 3)
    array = zarr.create_array(store="memory://a.zarr", shape=pixels.shape, dtype="uint8", chunks=(32, 32, 3))
    array[...] = pixels
    source = open_source("memory://a.zarr")
    np.testing.assert_array_equal(source.read(Window(0, 0, 70, 60)), pixels)
    local = stored(tmp_path / "b.zarr", pixels)
    np.testing.assert_array_equal(open_source(f"file://{local}").read(Window(0, 0, 70, 60)), pixels)
    with pytest.raises(SourceError, match=r"memory://missing\.zarr") as caught:
        open_source("memory://missing.zarr")
    assert one_line(str(caught.value))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_chunk_is_an_error_with_the_window(tmp_path: Path, compressed: bool) -> None:
    pixels = picture(128, 128, 3)
    options: dict[str, Any] = {} if compressed else {"compressors": None}
    path = stored(tmp_path / "a", pixels, **options)
    (chunk,) = [file for file in path.rglob("*") if file.is_file() and file.parts[-3:] == ("1", "0", "0")]
    chunk.write_bytes(chunk.read_bytes()[:20])
    source = open_source(path)
    with pytest.raises(SourceError, match="cannot read columns 3") as caught:
        source.read(Window(3, 60, 20, 30))
    assert one_line(str(caught.value))
    assert str(path) in str(caught.value)
    np.testing.assert_array_equal(source.read(Window(64, 0, 64, 128)), pixels[:, 64:])
    with pytest.raises(SourceError):
        source.thumbnail(20)


def test_a_dask_graph_that_fails_is_an_error_with_the_window() -> None:
    def broken(block: Values) -> Values:
        raise RuntimeError("the block\nis gone")

    lazy = da.from_array(picture(50, 60, 3), chunks=20).map_blocks(broken, dtype="uint8", meta=np.zeros(0, "uint8"))
    with pytest.raises(SourceError, match=r"columns 0.*RuntimeError: the block is gone"):
        ArraySource(lazy).read(Window(0, 0, 10, 10))


def test_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    """A billion pixels a side: opened, one window read, and nothing larger taken."""
    side = 10**9
    zarr.create_array(store=str(tmp_path / "a"), shape=(side, side, 3), dtype="uint8", chunks=(64, 64, 3), fill_value=7)
    source = open_source(tmp_path / "a")
    assert source.info.pixels == 10**18
    assert (source.read(Window(side - 10, side - 10, 10, 10)) == 7).all()
    zarr.create_array(store=str(tmp_path / "b"), shape=(side, side), dtype="uint8", chunks=(side, side))
    with pytest.raises(SourceError, match="chunks of") as caught:
        open_source(tmp_path / "b")
    assert one_line(str(caught.value))


@pytest.mark.parametrize("axes", ["yxc", "cyx"])
def test_memory_stays_below_what_is_said(tmp_path: Path, axes: str) -> None:
    """A large window of an array whose own axes are in another order: 40 MB, not twice that."""
    shape, chunks = ((4000, 4000, 3), (500, 500, 3)) if axes == "yxc" else ((3, 4000, 4000), (3, 500, 500))
    zarr.create_array(store=str(tmp_path / "a"), shape=shape, chunks=chunks, dtype="uint8")[...] = 9
    growth = peak_growth_of(
        "from urst_tiles.sources import open_source\n"
        "from urst_tiles.geometry import Window\n"
        f"source = open_source({str(tmp_path / 'a')!r})\n"
        "source.read(Window(0, 0, 1, 1))\n"
        "started()\n"
        "result = source.read(Window(100, 100, 3700, 3700))\n"
        "said = source.cache_bytes(3700) + result.nbytes\n"
        "assert peak() - base[0] < said, (peak() - base[0], said)\n"
    )
    assert 40 << 20 < growth < 80 << 20


def test_pickling(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    source = open_source(stored(tmp_path / "a", pixels))
    packed = pickle.dumps(source)
    assert len(packed) < 5000  # a path, not the pixels
    again: Source = pickle.loads(packed)
    assert again.info == source.info
    assert again.fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(again.read(Window(1, 2, 30, 40)), pixels[2:42, 1:31])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ArraySource(pixels))).read(Window(0, 0, 400, 300)), pixels)


def test_threads_agree_with_one(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    source = open_source(stored(tmp_path / "a", pixels))
    wrong: list[Window] = []

    def check(seed: int) -> None:
        for window in windows(400, 300, 10, seed):
            if not np.array_equal(source.read(window), cut(pixels, window)):
                wrong.append(window)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_fingerprints_change_with_the_source(tmp_path: Path) -> None:
    pixels = picture(300, 400, 3)
    assert ArraySource(pixels).fingerprint() == ArraySource(pixels.copy()).fingerprint()
    assert ArraySource(pixels).fingerprint() != ArraySource(255 - pixels).fingerprint()
    first, second = (ArraySource(da.from_array(values, chunks=50)) for values in (pixels, 255 - pixels))
    assert first.fingerprint() != second.fingerprint()
    before = ZarrSource(stored(tmp_path / "a", pixels)).fingerprint()
    assert ZarrSource(tmp_path / "a").fingerprint() == before
    assert ZarrSource(stored(tmp_path / "b", pixels[:-1])).fingerprint() != before


def test_what_is_no_source() -> None:
    with pytest.raises(SourceError, match="int is no source"):
        open_source(3)
    source = ArraySource(picture(5, 6, 3))
    assert open_source(source) is source
    with pytest.raises(InputError, match="6 x 5"):
        source.read(Window(0, 0, 7, 5))

"""Masks and transparency: what nobody sees is not made, what is seen is what it was, alpha comes back as it came."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import pyvips
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from tests.networks_support import network_of
from tests.support import picture, write_tiff
from urst_tiles import Window, collect_statistics, load_network, open_source, stylize_array
from urst_tiles.engines import Piece, TorchEngine
from urst_tiles.errors import InputError, SourceError
from urst_tiles.estimating import store_layout
from urst_tiles.geometry import TilePlan, plan_tiles
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.options import RunOptions
from urst_tiles.preparing import open_raster
from urst_tiles.running import freeze_for
from urst_tiles.shards import ShardReport, process_shard, source_crc
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.hidden import without_hidden
from urst_tiles.sources.masked import Masked, MaskedSource
from urst_tiles.sources.spool import spool, spool_bytes
from urst_tiles.stores import OmeZarrStore, build_pyramid

IDENTITY = load_network("identity")
Array = NDArray[Any]


class CountingEngine(TorchEngine):
    """Counts windows."""

    windows = 0

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        self.windows += len(pieces)
        super().run(pieces, on_taken)


class Watched:
    """A source in memory, and the windows that were read of it."""

    def __init__(self, pixels: Array) -> None:
        self._source, self.windows = open_source(pixels), list[Window]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    info = property(lambda self: self._source.info)
    name = property(lambda self: self._source.name)

    def read(self, window: Window) -> Any:
        self.windows.append(window)
        return self._source.read(window)


@dataclass
class Made:
    """All shards of a raster, made one after the other without Dask."""

    plan: TilePlan
    store: OmeZarrStore
    reports: list[ShardReport]
    windows: int
    # that the network ran on
    told: int
    # pixels that progress heard of

    @property
    def pixels(self) -> Array:
        """(bands, height, width)."""
        return self.store.read(0, Window(0, 0, *self.store.levels[0]))


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(
        source: Source, frozen: FrozenNetwork, *, halo: int = 0, stride: int = 1, batch: int = 2, **more: Any
    ) -> Made:
        plan = plan_tiles(source.info.width, source.info.height, halo=halo, stride=stride, **more)
        store = OmeZarrStore.create(tmp_path_factory.mktemp("made") / "a.zarr", store_layout(source.info, plan))
        engine, told = CountingEngine(frozen, device="cpu"), list[int]()
        reports = [process_shard(shard, source, engine, store, batch=batch, on_tiles=told.append) for shard in plan]
        return Made(plan, store, reports, engine.windows, sum(told))

    return made


@pytest.fixture(scope="module")
def network() -> StyleNetwork:
    return untrained(width=8, seed=1)


@pytest.fixture(scope="module")
def quick() -> StyleNetwork:
    """Of a small halo."""
    first, last = (nn.Conv2d(*bands, 3, padding=1, padding_mode="reflect") for bands in ((3, 6), (6, 3)))
    return network_of(first, nn.InstanceNorm2d(6, affine=True), nn.ReLU(), last)


@st.composite
def patchy(draw: st.DrawFn, height: int, width: int, dtype: str = "uint8", cell: int = 8) -> Array:
    """(height, width): whole cells of 0, of full and of anything."""
    kinds = draw(st.lists(st.sampled_from("0001x"), min_size=1, max_size=40))
    rng, top = np.random.default_rng(draw(st.integers(0, 99))), np.iinfo(dtype).max
    y, x = np.ogrid[:height, :width]
    chosen = np.array(kinds)[((y // cell) * 7 + x // cell) % len(kinds)]
    anything = rng.integers(0, top, (height, width), dtype, endpoint=True)
    pixels: Array = np.where(chosen == "x", anything, (chosen == "1") * top).astype(dtype)
    return pixels


@given(data=st.data(), height=st.integers(1, 90), width=st.integers(1, 90), grey=st.booleans(), black=st.booleans())
@settings(max_examples=30, deadline=None)
def test_identity_returns_every_byte_and_runs_only_what_is_seen(
    tmp_path_factory: pytest.TempPathFactory,
    make: Make,
    data: st.DataObject,
    height: int,
    width: int,
    grey: bool,
    black: bool,
) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint16"]))
    alpha = data.draw(patchy(height, width, dtype))
    colours = picture(height, width, 3, dtype)[..., : 1 if grey else 3]
    if black:
        colours = colours * (alpha > 0)[..., None]
    both = np.concatenate([colours, alpha[..., None]], axis=2).astype(dtype)
    source = open_source(write_tiff(tmp_path_factory.mktemp("identity") / "in.tif", both))
    made = make(source, IDENTITY.freeze(IDENTITY.neutral_statistics), window=8)
    expected = np.concatenate([np.broadcast_to(colours, (height, width, 3)), alpha[..., None]], axis=2)
    np.testing.assert_array_equal(made.pixels, expected.transpose(2, 0, 1))
    tiles = [tile for shard in made.plan for tile in shard.tiles]
    assert made.windows == sum(bool(alpha[tile.core.slices].any()) for tile in tiles)
    assert made.told == sum(report.pixels for report in made.reports) == height * width
    for shard, report in zip(made.plan, made.reports, strict=True):
        assert report.empty == (not expected[shard.core.slices].any())
        assert made.store.has_shard(0, shard.row, shard.col) != report.empty
        assert report.source_crc == source_crc(source, shard)


def test_black_is_not_empty(make: Make) -> None:
    made = make(open_source(np.zeros((40, 40, 3), np.uint8)), IDENTITY.freeze(IDENTITY.neutral_statistics), window=8)
    assert not any(report.empty for report in made.reports)
    assert made.windows == 25


@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_what_is_seen_is_made_as_if_all_were(make: Make, quick: StyleNetwork, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(60, 99)), data.draw(st.integers(60, 99))
    alpha, colours = data.draw(patchy(height, width, cell=16)), picture(height, width)
    frozen = quick.freeze(collect_statistics(quick, colours))
    # One window a call: which of them are run together decides the last bit of a sum.
    how = {"window": 2 * quick.halo + 16, "halo": quick.halo, "stride": quick.stride, "batch": 1}
    plain = make(open_source(colours), frozen, **how)
    seen = make(open_source(np.dstack([colours, alpha])), frozen, **how)
    masked = make(MaskedSource(open_source(colours), open_source(alpha)), frozen, **how)
    assert seen.windows == masked.windows <= plain.windows
    for made in (seen, masked):
        np.testing.assert_array_equal(made.pixels[3], alpha)
        np.testing.assert_array_equal(made.pixels[:3, alpha > 0], plain.pixels[:, alpha > 0])
    assert len(np.unique(plain.pixels)) > 100
    region = Window(10, 13, 45, 41)
    part = make(MaskedSource(open_source(colours), open_source(alpha)), frozen, **how, region=region)
    np.testing.assert_array_equal(part.pixels, masked.pixels[:, *region.slices])


@pytest.mark.parametrize("masked", [False, True])
def test_a_region_is_the_same_part_where_nothing_is_seen_too(make: Make, quick: StyleNetwork, masked: bool) -> None:
    colours, alpha = picture(60, 70), np.zeros((60, 70), np.uint8)
    alpha[16, 16] = 9  # in a core that the region cuts, outside the region
    raster = open_source(colours if masked else np.dstack([colours, alpha]))
    source = MaskedSource(raster, open_source(alpha)) if masked else raster
    frozen = quick.freeze(collect_statistics(quick, colours))
    how = {"window": 2 * quick.halo + 16, "halo": quick.halo, "stride": quick.stride, "batch": 1}
    region = Window(20, 20, 30, 30)
    full, part = make(source, frozen, **how), make(source, frozen, **how, region=region)
    assert (full.pixels[:3, 20:32, 20:32] != colours[20:32, 20:32].transpose(2, 0, 1)).any()
    np.testing.assert_array_equal(part.pixels, full.pixels[:, *region.slices])


@given(data=st.data(), height=st.integers(5, 60), width=st.integers(5, 60), own=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_masked_source_is_its_raster_and_its_mask(data: st.DataObject, height: int, width: int, own: bool) -> None:
    dtype, of_mask = (data.draw(st.sampled_from(["uint8", "uint16"])) for _ in range(2))
    pixels, mask = picture(height, width, 4 if own else 3, dtype), data.draw(patchy(height, width, of_mask))
    raster = Watched(pixels)
    source = MaskedSource(raster, open_source(mask))
    assert isinstance(source, Masked)
    col, row = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = Window(col, row, data.draw(st.integers(1, width - col)), data.draw(st.integers(1, height - row)))
    found = source.read(window)
    assert found.flags.c_contiguous
    assert (found.shape, found.dtype) == ((window.height, window.width, 4), np.dtype(dtype))
    top, of_top = int(np.iinfo(dtype).max), int(np.iinfo(of_mask).max)
    scaled = (mask[window.slices].astype(int) * top * 2 + of_top) // (2 * of_top)
    assert source.visible(window) == scaled.any()
    if not scaled.any():
        assert not found.any()
        assert raster.windows == []
        return
    np.testing.assert_array_equal(found[..., :3], pixels[window.slices][..., :3])
    if own:
        scaled = (2 * scaled * pixels[window.slices][..., 3].astype(int) + top) // (2 * top)
    np.testing.assert_array_equal(found[..., 3], scaled)


def test_a_tall_window_is_read_in_parts_that_join() -> None:
    # More than one band of rows.
    pixels, mask = np.resize(picture(70, 90), (700, 5000, 3)), np.zeros((700, 5000), np.uint8)
    mask[600:, :] = 200
    raster = Watched(pixels)
    source = MaskedSource(raster, open_source(mask))
    found = source.read(Window(0, 100, 5000, 600))
    assert len(raster.windows) > 1
    np.testing.assert_array_equal(found, np.dstack([pixels, mask])[100:])


def test_facts_of_a_masked_source(tmp_path: Path) -> None:
    raster = open_source(write_tiff(tmp_path / "in.tif", picture(50, 70), tile=32, resolution=(300, 300)))
    masks = [write_tiff(tmp_path / f"{name}.tif", picture(50, 70, 1, seed=name), tile=16) for name in (1, 2)]
    one, two = (MaskedSource(raster, open_source(mask)) for mask in masks)
    info, plain = one.info, raster.info
    assert (info.bands, info.alpha, info.tile, info.resolution) == (4, True, plain.tile, plain.resolution)
    assert one.name == raster.name
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == MaskedSource(raster, open_source(masks[0])).fingerprint()
    assert one.cache_bytes(50) > raster.cache_bytes(50) + open_source(masks[0]).cache_bytes(50)
    again = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) < 10_000
    np.testing.assert_array_equal(again.read(Window(3, 4, 40, 30)), one.read(Window(3, 4, 40, 30)))
    with pytest.raises(InputError, match="reaches outside"):
        one.visible(Window(0, 0, 71, 50))


def test_a_mask_has_no_say_in_the_statistics() -> None:
    pixels, mask = picture(80, 90), np.zeros((80, 90), np.uint8)
    source = MaskedSource(open_source(pixels), open_source(mask))
    np.testing.assert_array_equal(without_hidden(source.thumbnail(1000), source.info)[..., :3], pixels)


def test_a_mask_that_is_unpacked_first(tmp_path: Path) -> None:
    pixels, mask = picture(300, 200), picture(300, 200, 1, seed=3)
    pyvips.Image.new_from_array(mask).write_to_file(str(tmp_path / "mask.png"))
    raster = open_source(write_tiff(tmp_path / "in.tif", pixels))
    source = open_raster(raster, RunOptions(mask=tmp_path / "mask.png"))
    assert isinstance(source, MaskedSource)
    assert not source.info.random_access
    assert source.stream_bytes == open_source(tmp_path / "mask.png").stream_bytes  # type: ignore[attr-defined]
    readable = spool(source, tmp_path / "spool")
    assert readable.info.random_access
    assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) <= spool_bytes(source)
    np.testing.assert_array_equal(readable.read(Window(0, 0, 200, 300)), np.dstack([pixels, mask]))
    assert readable.fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (picture(50, 60, 1), "has 60 x 50 pixels and the numpy array has 70 x 50"),
        (picture(50, 70, 3), "has 3 bands; give a grey one"),
        ("nowhere.tif", "there is no such file"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line(mask: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        stylize_array(picture(50, 70), IDENTITY, mask=mask)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("lazy", [False, True])
def test_truths_are_a_mask(lazy: bool) -> None:
    pixels = picture(60, 80)
    truths: Any = pixels[..., 0] > 99
    mask = da.from_array(truths, chunks=(32, 32)) if lazy else truths
    found = stylize_array(pixels, IDENTITY, mask=mask, window=16).compute()
    np.testing.assert_array_equal(found[..., 3], truths * 255)
    np.testing.assert_array_equal(found[truths, :3], pixels[truths])


@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_lazy_result_has_the_same_law(quick: StyleNetwork, data: st.DataObject) -> None:
    pixels, mask = picture(70, 90), data.draw(patchy(70, 90, cell=32))
    raster, how = Watched(pixels), {"window": 2 * quick.halo + 16, "thumbnail": 32}
    plain = stylize_array(pixels, quick, **how)  # type: ignore[arg-type]
    masked = stylize_array(raster, quick, mask=mask, **how)  # type: ignore[arg-type]
    raster.windows.clear()
    full = masked.compute(scheduler="synchronous")
    cells = [mask[y : y + 16, x : x + 16] for y in range(0, 70, 16) for x in range(0, 90, 16)]
    assert len(raster.windows) == sum(bool(cell.any()) for cell in cells)
    np.testing.assert_array_equal(full[..., 3], mask)
    np.testing.assert_array_equal(full[mask > 0, :3], plain.compute()[mask > 0])
    region = stylize_array(pixels, quick, mask=mask, region=(25, 10, 40, 50), **how)  # type: ignore[arg-type]
    np.testing.assert_array_equal(region.compute(), full[10:60, 25:65])


def test_a_large_sparse_raster_costs_what_is_seen(tmp_path: Path, make: Make) -> None:
    side = 40_000
    raster = zarr.create_array(tmp_path / "in.zarr", shape=(side, side, 3), chunks=(1000, 1000, 3), dtype="u1")
    mask = zarr.create_array(tmp_path / "mask.zarr", shape=(side, side), chunks=(4000, 4000), dtype="u1")
    raster[39_000:, 39_000:] = 77
    mask[39_500:, 39_500:] = 200
    source = MaskedSource(open_source(tmp_path / "in.zarr"), open_source(tmp_path / "mask.zarr"))
    made = make(source, IDENTITY.freeze(IDENTITY.neutral_statistics), window=1000)
    assert [report.index for report in made.reports if not report.empty] == [199]
    assert made.windows == 1
    assert made.told == side**2
    assert made.reports[199].target_crc != made.reports[198].target_crc
    assert made.reports[0].source_crc == source_crc(source, made.plan[0])
    empty = {(0, *divmod(report.index, 20)) for report in made.reports if report.empty}

    def mark(level: int, row: int, col: int, is_empty: bool) -> None:
        if is_empty:
            empty.add((level, row, col))

    build_pyramid(made.store, mark=mark, empty=lambda *shard: shard in empty)
    array: Any = zarr.open_group(made.store.name, mode="r")
    assert [int(array[str(level)][3, -1, -1]) for level in range(3)] == [200, 200, 200]
    assert (array["0"][:, 39_600, 39_600] == (77, 77, 77, 200)).all()
    assert not array["0"][:, 5000:5010, 5000:5010].any()
    files = [path for path in Path(made.store.name).rglob("*") if path.is_file() and "c" in path.parts]
    assert len(files) == len(made.store.levels)  # one shard a level


def info_of(pixels: Array) -> RasterInfo:
    return open_source(pixels).info


def cut_out(hidden: int, height: int = 120, width: int = 160) -> tuple[Array, NDArray[np.bool_]]:
    """A disc of a picture, and where it is seen; its hidden colours are all the same."""
    y, x = np.mgrid[:height, :width]
    seen = (y - 55) ** 2 + (x - 90) ** 2 < 38**2
    pixels = picture(height, width, 4)
    pixels[..., 3] = seen * 255
    pixels[~seen, :3] = hidden
    return pixels, seen


def test_hidden_colours_are_not_measured(network: StyleNetwork) -> None:
    black, white = (freeze_for(open_source(cut_out(hidden)[0]), network, None, 1000)[1] for hidden in (0, 255))
    assert black.hash() == white.hash()
    # Shrunk, the border's pixels are mixed of seen and hidden ones.
    black, white = (freeze_for(open_source(cut_out(hidden)[0]), network, None, 60)[1] for hidden in (0, 255))
    assert black.hash() == white.hash()


def test_a_cut_out_is_measured_like_its_picture(network: StyleNetwork) -> None:
    pixels, seen = cut_out(0)
    whole = picture(120, 160)
    flat = pixels[..., :3].copy()
    flat[~seen] = whole[seen].mean(axis=0).round()

    def spread(colours: Any) -> Array:
        return np.concatenate([np.sqrt(m.variance) for m in collect_statistics(network, colours).layers.values()])

    filled = without_hidden(pixels, info_of(pixels))[..., :3]
    np.testing.assert_array_equal(filled[30:80, 65:115], whole[30:80, 65:115])
    true = spread(whole)
    off = [np.abs(np.log(spread(colours) / true)).mean() for colours in (filled, pixels[..., :3], flat)]
    assert off[0] < 0.15
    assert off[0] < off[1] / 2
    assert off[0] < off[2] / 2


@pytest.mark.parametrize("alpha", [1, 128, 255])
def test_where_nothing_is_transparent_nothing_is_filled(alpha: int) -> None:
    pixels = picture(40, 50, 4)
    pixels[..., 3] = alpha
    assert without_hidden(pixels, info_of(pixels)) is pixels


def test_thumbnails_of_nothing_and_of_next_to_nothing() -> None:
    pixels = picture(40, 50, 4)
    pixels[..., 3] = 0
    assert without_hidden(pixels, info_of(pixels)) is pixels
    pixels[7, 9, 3] = 1  # its neighbours are all transparent
    assert (without_hidden(pixels, info_of(pixels))[..., :3] == pixels[7, 9, :3]).all()
    pixels[..., 3] = np.eye(40, 50)
    filled = without_hidden(pixels, info_of(pixels))
    assert {tuple(pixel[:3]) for row in filled for pixel in row} <= {tuple(pixels[n, n, :3]) for n in range(40)}

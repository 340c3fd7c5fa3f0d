"""Whole runs in Python: laws 3, 7 and 11 through the whole pipeline, regions, targets, what is left behind."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import MOSAIC, SHARED, holding, left_in, picture, tree, write_tiff
from urst_tiles import RunReport, collect_statistics, load_network, open_source, plan, stylize
from urst_tiles.errors import InputError, MemoryBudgetError, RunMismatchError, SourceError, StoreError
from urst_tiles.events import Event, RunFinished, RunStarted, ShardFinished, TilesFinished
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.stores.files import write_durably

IDENTITY = load_network("identity")


@pytest.fixture(scope="module")
def small_network() -> StyleNetwork:
    return untrained(width=8, seed=1)


def result(path: Path) -> np.ndarray[Any, Any]:
    """(c, y, x) of a finished OME-Zarr, read by zarr alone."""
    array = zarr.open_group(path, mode="r")["0"]
    return np.asarray(array[...])  # type: ignore[index]


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    bands=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16"]),
    window=st.sampled_from([16, 37, 64]),
)
@settings(max_examples=25, deadline=None)
def test_law_7_an_identity_network_returns_the_inputs_bytes(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, bands: int, dtype: str, window: int
) -> None:
    folder = tmp_path_factory.mktemp("identity")
    pixels = picture(height, width, bands, dtype)
    source = write_tiff(folder / "in.tif", pixels)
    stylize(source, folder / "out.zarr", network=IDENTITY, window=window, thumbnail=16)
    expected = pixels if bands > 1 else pixels[..., None]
    if bands < 3:
        expected = np.concatenate([expected[..., :1]] * 3 + ([expected[..., 1:]] if bands == 2 else []), axis=-1)
    assert (result(folder / "out.zarr") == expected.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("height", "width", "window"), [(301, 263, 160), (97, 640, 176), (61, 61, 160)])
def test_law_3_tiled_equals_whole(
    tmp_path: Path, small_network: StyleNetwork, height: int, width: int, window: int
) -> None:
    pixels = picture(height, width)
    source = write_tiff(tmp_path / "in.tif", pixels)
    stylize(source, tmp_path / "out.zarr", network=small_network, window=window, thumbnail=64)
    statistics = collect_statistics(small_network, open_source(source).thumbnail(64))
    whole = whole_image(small_network, pixels, statistics)
    difference = np.abs(result(tmp_path / "out.zarr").astype(int) - whole.astype(int))
    assert difference.max() <= 1  # a value on the edge between two levels may be rounded either way
    assert (difference > 0).mean() < 1e-3


def whole_image(network: StyleNetwork, pixels: np.ndarray[Any, Any], statistics: Any) -> np.ndarray[Any, Any]:
    """The whole image through the frozen network at once: (3, height, width)."""
    with torch.inference_mode():
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        y = network.freeze(statistics)(x)[0]
    out: np.ndarray[Any, Any] = (y * 255).round().to(torch.uint8).numpy()
    return out


@pytest.mark.skipif(not MOSAIC.exists(), reason="needs the published mosaic.pth in ../shared")
def test_published_weights_on_a_photo_tiled_equals_whole_to_no_grey_level(tmp_path: Path) -> None:
    photo = pyvips.Image.new_from_file(str(SHARED / "images/photos/kodim19.png"))
    pixels = photo.crop(0, 100, 512, 400).numpy()
    source = write_tiff(tmp_path / "in.tif", pixels)
    network = load_network("johnson", MOSAIC)
    stylize(source, tmp_path / "out.zarr", network=network, window=288, thumbnail=256)
    statistics = collect_statistics(network, open_source(source).thumbnail(256))
    assert (result(tmp_path / "out.zarr") == whole_image(network, pixels, statistics)).all()


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_region_is_byte_for_byte_the_same_part_of_the_full_result(
    tmp_path_factory: pytest.TempPathFactory, small_network: StyleNetwork, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("region")
    source = write_tiff(folder / "in.tif", picture(300, 410, 4))
    stylize(source, folder / "full.zarr", network=small_network, window=144, thumbnail=48)
    col, row = data.draw(st.integers(0, 400)), data.draw(st.integers(0, 290))
    width, height = data.draw(st.integers(1, 410 - col)), data.draw(st.integers(1, 300 - row))
    stylize(
        source,
        folder / "part.zarr",
        network=small_network,
        window=144,
        thumbnail=48,
        region=(col, row, width, height),
    )
    full = result(folder / "full.zarr")
    assert (result(folder / "part.zarr") == full[:, row : row + height, col : col + width]).all()


def test_law_11_metadata_written_is_metadata_read(tmp_path: Path) -> None:
    profile = (
        pyvips.Image.black(1, 1).copy(interpretation="srgb").icc_export(output_profile="p3").get("icc-profile-data")
    )
    pixels = picture(70, 90, 4, "uint16")
    source = write_tiff(
        tmp_path / "in.tif",
        pixels,
        iccprofile=profile,
        resolution=(300, 150),
        resolutionunit="INCH",
        extratags=[(274, 3, 1, 6, True)],
    )
    stylize(source, tmp_path / "out.zarr", network=IDENTITY, window=32)
    stylize(source, tmp_path / "out.tif", network=IDENTITY, window=32)
    turned = np.rot90(pixels, -1)
    assert (result(tmp_path / "out.zarr") == turned.transpose(2, 0, 1)).all()
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        page: Any = tif.pages[0]
        assert (page.asarray() == turned).all()
        assert page.tags["InterColorProfile"].value == profile
        assert "Orientation" not in page.tags or page.tags["Orientation"].value == 1
        x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
        unit = {2: 25.4, 3: 10.0}[int(page.tags["ResolutionUnit"].value)]
        assert (x[0] / x[1] / unit, y[0] / y[1] / unit) == pytest.approx((150 / 25.4, 300 / 25.4), rel=1e-3)
        assert page.extrasamples == (2,)
    for name in ("out.zarr", "out.tif"):
        info = open_source(tmp_path / name).info
        assert (info.width, info.height, info.bands, info.dtype, info.alpha) == (70, 90, 4, "uint16", True)
        assert info.icc_profile == profile
        assert info.resolution == pytest.approx((150 / 25.4, 300 / 25.4), rel=1e-3)


def test_a_profile_of_grey_is_left_out_and_said(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 50, 1), iccprofile=b"\0" * 128)
    assert open_source(source).info.icc_profile == b"\0" * 128
    report = stylize(source, tmp_path / "o.tif", network=IDENTITY)
    assert any("profile" in note for note in report.notes)
    assert open_source(tmp_path / "o.tif").info.icc_profile is None


def test_a_tiff_is_the_same_picture_as_the_zarr(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(333, 444))
    stylize(source, tmp_path / "out.zarr", network=small_network, window=144, thumbnail=48)
    stylize(source, tmp_path / "out.btf", network=small_network, window=144, thumbnail=48, keep_store=True)
    assert tree(tmp_path / "out.zarr" / "0") == tree(tmp_path / "out.btf.zarr" / "0")
    expected = result(tmp_path / "out.zarr").transpose(1, 2, 0)
    assert (tifffile.imread(tmp_path / "out.btf") == expected).all()
    assert (pyvips.Image.new_from_file(str(tmp_path / "out.btf")).numpy() == expected).all()
    assert left_in(tmp_path) == ["in.tif", "out.btf", "out.btf.zarr", "out.zarr"]


def test_numpy_and_zarr_arrays_are_sources(tmp_path: Path) -> None:
    pixels = picture(90, 80)
    zarr.create_array(tmp_path / "in.zarr", data=pixels, chunks=(32, 32, 3))
    stylize(pixels, tmp_path / "a.zarr", network=IDENTITY, window=32)
    stylize(tmp_path / "in.zarr", tmp_path / "b.zarr", network=IDENTITY, window=32)
    assert (result(tmp_path / "a.zarr") == pixels.transpose(2, 0, 1)).all()
    assert (result(tmp_path / "b.zarr") == pixels.transpose(2, 0, 1)).all()


def test_a_result_is_a_source(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(200, 150))
    stylize(source, tmp_path / "a.zarr", network=IDENTITY, window=48)
    stylize(tmp_path / "a.zarr", tmp_path / "b.zarr", network=IDENTITY, window=48)
    assert tree(tmp_path / "a.zarr" / "0") == tree(tmp_path / "b.zarr" / "0")


def test_batches_change_nothing_but_speed(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 300))
    for batch in (1, 3):
        stylize(source, tmp_path / f"{batch}.zarr", network=small_network, window=144, thumbnail=48, batch=batch)
    difference = result(tmp_path / "1.zarr").astype(int) - result(tmp_path / "3.zarr").astype(int)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3


def test_events_add_up(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(200, 300))
    events: list[Event] = []
    report: RunReport = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, callbacks=[events.append])
    (started,) = (event for event in events if isinstance(event, RunStarted))
    shards = [event for event in events if isinstance(event, ShardFinished)]
    assert started.shards == len(shards) == report.shards == 10
    assert started.pixels == sum(event.pixels for event in shards) == 60000
    assert sum(event.pixels for event in events if isinstance(event, TilesFinished)) == 60000
    assert isinstance(events[-1], RunFinished)


def test_settings_that_differ_are_refused_with_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(200, 300))

    def stop(event: Event) -> None:
        if isinstance(event, ShardFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, callbacks=[stop])
    assert left_in(tmp_path) == ["in.tif", "o.zarr.partial.zarr"]
    with pytest.raises(RunMismatchError, match=r"geometry.window: 32 → 48"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=48)
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert report.shards_before >= 1
    assert report.shards + report.shards_before == 10
    assert left_in(tmp_path) == ["in.tif", "o.zarr"]
    with pytest.raises(StoreError, match="exists"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=48, overwrite=True)
    assert left_in(tmp_path) == ["in.tif", "o.zarr"]


def test_an_edited_source_is_refused_and_a_touched_one_goes_on(tmp_path: Path) -> None:
    pixels = picture(200, 300)
    source = write_tiff(tmp_path / "in.tif", pixels)
    done: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, ShardFinished):
            done.append(event.shard)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, callbacks=[stop])
    pixels[np.ix_((5, 150), (5, 100, 150, 200, 290))] ^= 1  # some of every shard
    write_tiff(source, pixels)
    with pytest.raises(RunMismatchError, match="changed since this run began"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    write_tiff(source, picture(200, 300))
    stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert (result(tmp_path / "o.zarr") == picture(200, 300).transpose(2, 0, 1)).all()


def test_a_file_truncated_mid_run_stops_the_run_and_is_taken_up_when_whole(tmp_path: Path) -> None:
    pixels = picture(400, 300, seed=3)
    source = write_tiff(tmp_path / "in.tif", pixels)
    whole = source.read_bytes()

    def truncate(event: Event) -> None:
        if isinstance(event, RunStarted):
            source.write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.raises(SourceError, match=r"in\.tif"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, callbacks=[truncate])
    assert not (tmp_path / "o.zarr").exists()
    source.write_bytes(whole)
    stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert (result(tmp_path / "o.zarr") == pixels.transpose(2, 0, 1)).all()


def test_bad_input_leaves_nothing_behind(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(200, 300))
    target = tmp_path / "o.zarr"
    with pytest.raises(InputError, match="Use --window 224 or larger"):
        stylize(source, target, network=small_network, window=100)
    with pytest.raises(InputError, match="outside the raster"):
        stylize(source, target, network=IDENTITY, region="0,0,301,10")
    with pytest.raises(InputError, match="names no format"):
        stylize(source, tmp_path / "o.gif", network=IDENTITY)
    with pytest.raises(InputError, match="either a style or a network"):
        stylize(source, target)
    with pytest.raises(StoreError, match="there is no folder"):
        stylize(source, tmp_path / "nowhere" / "o.zarr", network=IDENTITY)
    with pytest.raises(SourceError, match="missing"):
        stylize(tmp_path / "missing.tif", target, network=IDENTITY)
    truncated = tmp_path / "cut.tif"
    truncated.write_bytes(source.read_bytes()[:20000])
    with pytest.raises(SourceError, match=r"cut\.tif"):
        stylize(truncated, target, network=IDENTITY)
    assert left_in(tmp_path) == ["cut.tif", "in.tif"]


def test_a_budget_is_that_of_all_processes(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(500, 900))
    options: Any = {"window": 224, "time_it": False}
    with holding():
        alone, two, three = (plan(source, small_network, workers=workers, **options).memory for workers in (None, 2, 3))
        assert three.bytes - two.bytes > 256 * 2**20
        assert two.bytes - alone.bytes > 512 * 2**20
        assert plan(source, small_network, memory=two.bytes - 1, **options).memory.bytes < two.bytes
        with pytest.raises(MemoryBudgetError) as caught:
            plan(source, small_network, workers=3, memory=two.bytes - 1, **options)
        plan(source, small_network, workers=3, memory=caught.value.smallest, **options)


def test_too_small_a_budget_names_the_smallest_that_works(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(2000, 2000))
    with holding(400), pytest.raises(MemoryBudgetError, match="the smallest that works here is") as caught:
        stylize(source, tmp_path / "o.zarr", network=small_network, memory="1MiB", thumbnail=64)
    assert left_in(tmp_path) == ["in.tif"]
    with holding(407):  # what is resident sways a little from one call to the next
        stylize(source, tmp_path / "o.zarr", network=small_network, memory=caught.value.smallest, thumbnail=64)


def test_a_blank_raster_is_finite_and_said(tmp_path: Path, small_network: StyleNetwork) -> None:
    source = write_tiff(tmp_path / "in.tif", np.full((90, 90, 3), 255, np.uint8))
    report = stylize(source, tmp_path / "o.zarr", network=small_network)
    assert any("nearly blank" in note for note in report.notes)
    # A content that such statistics amplify: the picture may be nothing to look at, but it is numbers.
    statistics = collect_statistics(small_network, open_source(source).thumbnail(1024))
    with torch.inference_mode():
        amplified = small_network.freeze(statistics).module(torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)))
    assert torch.isfinite(amplified).all()


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(300, 400)
    source = write_tiff(tmp_path / "in.tif", pixels)
    written = []

    def full(path: Path, data: Any) -> None:
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_durably(path, data)

    monkeypatch.setattr("urst_tiles.stores.places.write_durably", full)
    with pytest.raises(StoreError, match="disk is full"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert left_in(tmp_path) == ["in.tif", "o.zarr.partial.zarr"]
    monkeypatch.undo()
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert report.shards_before == 3
    assert (result(tmp_path / "o.zarr") == pixels.transpose(2, 0, 1)).all()

"""Rasters that only decode from the top, through the whole pipeline: in bands of rows, or by a copy in tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import zarr
from numpy.typing import NDArray
from PIL import Image

from tests.support import holding, left_in, picture, tree, write_tiff
from urst_tiles import load_network, open_source, plan, stylize
from urst_tiles.deployment import Deployment
from urst_tiles.errors import RunStopped
from urst_tiles.events import Event, ShardFinished
from urst_tiles.geometry import plan_tiles
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.reading import ways_to_read
from urst_tiles.sources.masked import MaskedSource

IDENTITY = load_network("identity")


@pytest.fixture(scope="module")
def small_network() -> StyleNetwork:
    return untrained(width=8, seed=1)


def result(path: Path) -> np.ndarray[Any, Any]:
    """(c, y, x) of a finished OME-Zarr, read by zarr alone."""
    array = zarr.open_group(path, mode="r")["0"]
    return np.asarray(array[...])  # type: ignore[index]


def turned_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A PNG whose orientation tag turns it to ``pixels``: it can only be decoded from the top, and not be read so."""
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(pixels[::-1, ::-1]).save(path, exif=exif)
    return path


def test_formats_without_random_access_are_unpacked_and_nothing_is_left(tmp_path: Path) -> None:
    pixels = picture(130, 170)
    source = turned_png(tmp_path / "in.png", pixels)
    assert plan(source, IDENTITY, window=64).reading == "spool"
    report = stylize(source, tmp_path / "out.zarr", network=IDENTITY, window=64)
    assert any("unpacked" in note for note in report.notes)
    assert (result(tmp_path / "out.zarr") == pixels.transpose(2, 0, 1)).all()
    assert left_in(tmp_path) == ["in.png", "out.zarr"]


def test_or_they_are_read_in_bands_and_the_disk_is_left_alone(tmp_path: Path, small_network: StyleNetwork) -> None:
    pixels = picture(400, 330)
    write_tiff(tmp_path / "in.tif", pixels)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    planned = plan(tmp_path / "in.png", small_network, window=144, thumbnail=48)
    assert planned.reading == "bands"
    assert "spool" not in [part.name for part in planned.disk]
    assert len(planned.tiles) > 1
    folders: set[str] = set()

    def look(event: Event) -> None:
        folders.update(left_in(tmp_path))

    settings: dict[str, Any] = {"network": small_network, "window": 144, "thumbnail": 48}
    report = stylize(tmp_path / "in.png", tmp_path / "out.zarr", callbacks=[look], **settings)
    assert any("decoded twice" in note for note in report.notes)
    assert not any("spool" in name for name in folders)
    stylize(tmp_path / "in.tif", tmp_path / "tiled.zarr", **settings)
    assert tree(tmp_path / "out.zarr" / "0") == tree(tmp_path / "tiled.zarr" / "0")


def test_a_run_in_bands_that_was_stopped_goes_on(tmp_path: Path, small_network: StyleNetwork) -> None:
    Image.fromarray(picture(400, 330)).save(tmp_path / "in.png")
    settings: dict[str, Any] = {"network": small_network, "window": 144, "thumbnail": 48}
    stylize(tmp_path / "in.png", tmp_path / "calm.zarr", **settings)
    done: list[int] = []

    def count(event: Event) -> None:
        if isinstance(event, ShardFinished):
            done.append(event.shard)

    with pytest.raises(RunStopped):
        stylize(tmp_path / "in.png", tmp_path / "out.zarr", callbacks=[count], stop=lambda: len(done) >= 2, **settings)
    report = stylize(tmp_path / "in.png", tmp_path / "out.zarr", **settings)
    assert 2 <= report.shards_before < report.shards + report.shards_before
    assert tree(tmp_path / "out.zarr" / "0") == tree(tmp_path / "calm.zarr" / "0")


def test_bands_are_for_one_process_and_for_rows_that_fit(
    tmp_path: Path, small_network: StyleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(400, 330)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "mask.png")
    settings: dict[str, Any] = {"window": 144, "thumbnail": 48, "time_it": False}
    kinds = [
        plan(tmp_path / "in.png", small_network, **settings, **more).reading
        for more in ({}, {"workers": 2}, {"mask": tmp_path / "mask.png"})
    ]
    assert kinds == ["bands", "spool", "spool"]
    monkeypatch.setattr("urst_tiles.reading._BAND", 1000)
    assert plan(tmp_path / "in.png", small_network, **settings).reading == "spool"


def test_a_budget_too_small_for_bands_spools(
    tmp_path: Path, small_network: StyleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyvips.Image.black(60_000, 1_200, bands=3).pngsave(str(tmp_path / "in.png"))
    settings: dict[str, Any] = {"window": 320, "time_it": False, "thumbnail": 48}
    with holding():
        free = plan(tmp_path / "in.png", small_network, **settings)
        tight = plan(tmp_path / "in.png", small_network, memory=free.memory.bytes - 1, **settings)
    assert free.reading == "bands"
    rows = next(part.bytes for part in free.memory.phases[2].parts if part.name == "source")
    assert rows > 60_000 * 3 * 320
    assert tight.reading == "spool"
    assert tight.memory.bytes < free.memory.bytes


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ("windows",)),
        ({"compression": None}, ("windows",)),
        ({"compression": "lzw"}, ("edges", "windows")),
        # Each of these serves several shards.
        ({"tile": 256}, ("edges", "windows")),
    ],
)
def test_tiles_that_decode_fast_are_decoded_again_rather_than_kept(
    tmp_path: Path, options: dict[str, Any], kinds: tuple[str, ...]
) -> None:
    raster = write_tiff(tmp_path / "in.tif", picture(400, 700), **({"tile": 64} | options))
    source = open_source(raster)
    tiles = plan_tiles(700, 400, window=120, halo=4, stride=1)
    assert tiles.grid[1] > 2
    assert ways_to_read(source, tiles, Deployment(alone=True), gpu=False) == kinds
    assert ways_to_read(source, tiles, Deployment(alone=True), gpu=True) == ("edges", "windows")
    mask = open_source(write_tiff(tmp_path / "mask.tif", picture(400, 700)[..., 0], tile=16))
    assert ways_to_read(MaskedSource(source, mask), tiles, Deployment(alone=True), gpu=False) == kinds

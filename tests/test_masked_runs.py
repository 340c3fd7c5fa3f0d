"""Whole runs behind a mask, from Python and from the command line: counted, exported, taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray

from tests.support import picture, tree, write_tiff
from urst_tiles import load_network, plan, stylize
from urst_tiles.cli import main
from urst_tiles.errors import RunMismatchError
from urst_tiles.events import Event, ShardFinished, TilesFinished

IDENTITY = load_network("identity")
HEIGHT, WIDTH = 200, 260
# Windows of 16 px: 4 x 9 shards, 32 px wide and 64 high.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A raster and a mask that shows a disc in the middle, with a soft edge."""
    source = write_tiff(tmp_path / "in.tif", picture(HEIGHT, WIDTH))
    write_tiff(tmp_path / "mask.tif", disc())
    return source, tmp_path / "mask.tif"


def disc(centre: tuple[int, int] = (100, 130)) -> NDArray[np.uint8]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(y - centre[0], x - centre[1])
    soft: NDArray[np.uint8] = (np.clip((30 - distance) / 8, 0, 1) * 255).round().astype(np.uint8)
    return soft


def result(path: Path, level: int = 0) -> NDArray[Any]:
    """(height, width, 4)."""
    group: Any = zarr.open_group(path, mode="r")
    pixels: NDArray[Any] = np.asarray(group[str(level)][...]).transpose(1, 2, 0)
    return pixels


def test_what_is_hidden_has_no_files_and_is_counted(tmp_path: Path, files: tuple[Path, Path]) -> None:
    (source, mask), events = files, list[Event]()
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=16, mask=mask, callbacks=[events.append])
    found, alpha = result(tmp_path / "o.zarr"), disc()
    np.testing.assert_array_equal(found[..., 3], alpha)
    np.testing.assert_array_equal(found[alpha > 0, :3], picture(HEIGHT, WIDTH)[alpha > 0])
    shown = {(y, x) for y in range(4) for x in range(9) if alpha[64 * y :, 32 * x :][:64, :32].any()}
    there = {(int(p.parent.name), int(p.name)) for p in (tmp_path / "o.zarr" / "0" / "c" / "0").glob("*/*")}
    assert there == shown
    assert (report.shards, report.shards_empty) == (36, 36 - len(shown))
    shards = [event for event in events if isinstance(event, ShardFinished)]
    assert sum(event.empty for event in shards) == report.shards_empty
    assert sum(event.pixels for event in shards) == HEIGHT * WIDTH
    for shard in shards:
        told = [event.pixels for event in events if isinstance(event, TilesFinished) and event.shard == shard.shard]
        assert sum(told) <= shard.pixels
    stylize(source, tmp_path / "o.tif", network=IDENTITY, window=16, mask=mask)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif"), found)


def test_a_mask_that_hides_all_leaves_nothing(tmp_path: Path, files: tuple[Path, Path]) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    report = stylize(files[0], tmp_path / "o.zarr", network=IDENTITY, window=16, mask=nothing)
    assert report.shards_empty == report.shards == 36
    assert not result(tmp_path / "o.zarr").any()


@pytest.mark.parametrize("centre", [(100, 130), (30, 40)])
def test_a_run_goes_on_only_with_the_mask_it_began_with(
    tmp_path: Path, files: tuple[Path, Path], centre: tuple[int, int]
) -> None:
    source, mask = files
    how: Any = {"network": IDENTITY, "window": 16}
    whole = write_tiff(tmp_path / "whole.tif", np.maximum(disc(), disc((180, 250))))
    stylize(source, tmp_path / "whole.zarr", mask=whole, **how)
    stylize(source, tmp_path / "o.zarr", mask=mask, shards="1/2", **how)
    if centre == (30, 40):  # what was empty is seen now
        write_tiff(mask, np.maximum(disc(), disc(centre)))
        with pytest.raises(RunMismatchError, match="changed since this run began"):
            stylize(source, tmp_path / "o.zarr", mask=mask, **how)
        return
    with pytest.raises(RunMismatchError, match="alpha"):
        stylize(source, tmp_path / "o.zarr", **how)
    # It differs only where nothing was made yet.
    write_tiff(mask, tifffile.imread(whole))
    report = stylize(source, tmp_path / "o.zarr", mask=mask, **how)
    assert (report.shards, report.shards_before) == (18, 18)
    arrays = [{k: v for k, v in tree(tmp_path / name).items() if "urst" not in k} for name in ("o.zarr", "whole.zarr")]
    assert arrays[0] == arrays[1]


def typed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_the_command_takes_a_mask(tmp_path: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pyvips.Image.new_from_array(disc()).write_to_file(str(tmp_path / "mask.png"))
    pyvips.Image.new_from_array(disc()[:-1]).write_to_file(str(tmp_path / "short.png"))
    words = (files[0], tmp_path / "o.zarr", "--network", "identity", "--window", 16, "--mask")
    status, out, _ = typed(capsys, "plan", *words, tmp_path / "mask.png", "--json")
    planned = json.loads(out)
    assert status == 0
    assert planned["disk"]["spool"] < 200_000
    assert planned["source"]["alpha"]
    status, out, err = typed(capsys, "stylize", *words, tmp_path / "short.png")
    assert status == 2
    assert err.count("\n") == 1
    assert "has 260 x 199 pixels" in err
    status, out, _ = typed(capsys, "stylize", *words, tmp_path / "mask.png", "--json")
    assert status == 0
    assert json.loads(out)["shards_empty"] > 0
    np.testing.assert_array_equal(result(tmp_path / "o.zarr")[..., 3], disc())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "mask.png", "mask.tif", "o.zarr", "short.png"]


def test_a_plan_says_what_a_mask_takes(files: tuple[Path, Path]) -> None:
    plain, masked = plan(files[0], IDENTITY, time_it=False), plan(files[0], IDENTITY, mask=files[1], time_it=False)
    assert not plain.source.alpha
    assert masked.source.alpha
    assert masked.memory.bytes > plain.memory.bytes

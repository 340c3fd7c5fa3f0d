"""Parts of one run, one after another and at once: one creates, the last finishes, the bytes are those of one run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults_support import ended, start
from tests.support import left_in, picture, tree, write_tiff
from urst_tiles import load_network, stylize
from urst_tiles.errors import InputError, StoreError
from urst_tiles.folders import RunFolder
from urst_tiles.options import Part
from urst_tiles.sharing import Seat
from urst_tiles.styles import DEFAULT_STYLE, load_style

IDENTITY = load_network("identity")


@given(shards=st.integers(0, 300), count=st.integers(1, 40))
def test_parts_partition_the_shards(shards: int, count: int) -> None:
    parts = [Part(index, count).of_shards(shards) for index in range(1, count + 1)]
    assert [index for part in parts for index in part] == list(range(shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(one.stop == other.start for one, other in pairwise(parts))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2"])
def test_no_such_part(text: str) -> None:
    with pytest.raises(InputError):
        Part.of(text)


def test_parts_one_after_another_equal_one_run(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    for index in (2, 1):
        report = stylize(source, tmp_path / "o.tif", network=IDENTITY, window=32, shards=(index, 3), keep_store=True)
        assert (report.part, report.shards, report.finished) == (f"{index}/3", 7, False)
        assert left_in(tmp_path) == ["in.tif", "o.tif.partial.zarr"]
    again = stylize(source, tmp_path / "o.tif", network=IDENTITY, window=32, shards="2/3", keep_store=True)
    assert (again.shards, again.shards_before, again.finished) == (0, 7, False)
    last = stylize(source, tmp_path / "o.tif", network=IDENTITY, window=32, shards="3/3", keep_store=True)
    assert (last.shards, last.finished) == (7, True)
    stylize(source, tmp_path / "calm.tif", network=IDENTITY, window=32, keep_store=True)
    assert tree(tmp_path / "o.tif.zarr") == tree(tmp_path / "calm.tif.zarr")
    assert (tmp_path / "o.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()
    assert left_in(tmp_path) == ["calm.tif", "calm.tif.zarr", "in.tif", "o.tif", "o.tif.zarr"]


def test_a_call_without_shards_finishes_what_parts_left(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, shards="2/2")
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert (report.shards, report.shards_before, report.finished) == (10, 11, True)
    stylize(source, tmp_path / "calm.zarr", network=IDENTITY, window=32)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_processes_that_start_at_once_share_one_store_and_one_statistics(tmp_path: Path) -> None:
    """A second store is refused and a second measurement has its own pass of the gate: whoever came late read both."""
    source, style = write_tiff(tmp_path / "in.tif", picture(500, 600)), load_style(DEFAULT_STYLE)
    words = ("--style", DEFAULT_STYLE, "--window", 176, "--thumbnail", 64, "--quiet", "--shards")
    parts = [start(source, tmp_path / "o.zarr", *words, f"{index}/3", settings=()) for index in (1, 2, 3)]
    assert [ended(process) for process in parts] == [(0, "")] * 3
    stylize(source, tmp_path / "calm.zarr", network=style, window=176, thumbnail=64)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")
    assert left_in(tmp_path) == ["calm.zarr", "in.tif", "o.zarr"]


def test_who_may_sit_with_whom(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "o.zarr")
    folder.notes.mkdir(parents=True)
    first, second, whole = Seat(folder, Part(1, 2)), Seat(folder, Part(2, 2)), Seat(folder, None)
    first.take()
    assert first.alone()
    with pytest.raises(StoreError, match="part-1-of-2"):
        Seat(folder, Part(1, 2)).take()
    with pytest.raises(StoreError, match="being written by another run"):
        whole.take()
    second.take()
    assert not first.alone()
    second.leave()
    assert first.alone()
    first.finish()
    with pytest.raises(StoreError, match="main"):
        second.take()
    first.leave()
    whole.take()
    with pytest.raises(StoreError, match="main"):
        second.take()


def test_what_parts_cannot_do(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(100, 100))
    with pytest.raises(InputError, match="there are only 1"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, shards="1/2")
    with pytest.raises(InputError, match="remove each other's work"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, shards="1/1", overwrite=True)
    assert left_in(tmp_path) == ["in.tif"]

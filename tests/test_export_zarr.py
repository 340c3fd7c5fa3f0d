"""OME-Zarr written again: other chunks, shards, codecs, Zarr v2, as zarr, ngff-zarr and ome-zarr read it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import ngff_zarr
import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from tests.stores_support import digests, finished_store, halved, layout_for
from tests.support import left_in
from urst_tiles.errors import InputError, RunStopped, StoreError
from urst_tiles.exporting import export
from urst_tiles.geometry import Window
from urst_tiles.stores import OmeZarrStore
from urst_tiles.stores.metadata import level_sizes


def expected_levels(store: OmeZarrStore, least: int) -> list[Any]:
    levels = [store.read(level, Window(0, 0, *size)) for level, size in enumerate(store.levels)]
    while max(levels[-1].shape[1:]) > least:
        levels.append(halved(levels[-1]))
    return levels


@pytest.mark.parametrize("codec", [None, "zstd", "zstd:9", "blosc:5", "gzip:1", "none"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_every_codec_keeps_every_pixel(tmp_path: Path, codec: str | None, zarr_format: Literal[2, 3]) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(70, 45, 4, "uint16"))
    export(store, tmp_path / "b.zarr", codec=codec, zarr_format=zarr_format)
    group = zarr.open_group(tmp_path / "b.zarr", mode="r", zarr_format=zarr_format)
    for level, expected in enumerate(expected_levels(store, 16)):
        array: Any = group[str(level)]
        np.testing.assert_array_equal(array[:], expected)
        assert array.dtype == "<u2"
        names = [type(used).__name__ for used in array.compressors]
        assert names == {"zstd": [f"Zstd{'Codec' * (zarr_format == 3)}"], "none": []}.get(
            (codec or "").split(":")[0], names
        )
        assert len(names) == (codec != "none")
    np.testing.assert_array_equal(np.asarray(group["0"]), pixels)


@pytest.mark.parametrize(("chunk", "shard"), [(8, 24), (8, 0), (8, None), (16, 64), (32, 32), (20, 40), (100, None)])
@pytest.mark.parametrize("memory", [1, 10**9])
def test_chunks_shards_and_levels_are_those_asked_for(
    tmp_path: Path, chunk: int, shard: int | None, memory: int
) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(75, 45))
    export(store, tmp_path / "b.zarr", chunk=chunk, shard=shard, memory=memory)
    again = OmeZarrStore.open(tmp_path / "b.zarr")
    assert again.layout.chunk == chunk
    assert again.levels == level_sizes(again.layout)
    full: Any = zarr.open_group(tmp_path / "b.zarr", mode="r")["0"]
    assert full.chunks == (3, chunk, chunk)
    assert full.shards == (None if shard in (0, chunk) else (3, full.shards[1], full.shards[1]))
    assert shard in (None, 0, chunk) or full.shards[1] == shard
    for level, expected in enumerate(expected_levels(store, chunk)[: len(again.levels)]):
        np.testing.assert_array_equal(again.read(level, Window(0, 0, *again.levels[level])), expected)
    np.testing.assert_array_equal(again.read(0, Window(0, 0, 75, 45)), pixels)


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize(("zarr_format", "version"), [(2, "0.4"), (3, "0.5")])
def test_the_schema_accepts_it(tmp_path: Path, bands: Literal[3, 4], zarr_format: Literal[2, 3], version: str) -> None:
    layout = layout_for(70, 45, bands, resolution=(10.0, 12.5), name="a picture")
    store, pixels = finished_store(tmp_path / "a.zarr", layout)
    export(store, tmp_path / "b.zarr", zarr_format=zarr_format, chunk=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = ngff_zarr.from_ngff_zarr(str(tmp_path / "b.zarr"), validate=True, version=version)
    first, second = read.images[:2]
    np.testing.assert_array_equal(np.asarray(first.data), pixels)
    assert first.scale == {"c": 1.0, "y": 80.0, "x": 100.0}
    assert second.translation == {"c": 0.0, "y": 40.0, "x": 50.0}


def test_zarr_2_says_0_4_and_lies_in_folders(tmp_path: Path) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(70, 45))
    export(store, tmp_path / "b.zarr", zarr_format=2)
    attributes = dict(zarr.open_group(tmp_path / "b.zarr", mode="r", zarr_format=2).attrs)
    multiscales: Any = attributes["multiscales"]
    assert multiscales[0]["version"] == "0.4"
    assert "ome" not in attributes
    assert (tmp_path / "b.zarr/0/0/2/4").is_file()
    assert not list((tmp_path / "b.zarr").rglob("zarr.json"))
    location = parse_url(str(tmp_path / "b.zarr"), mode="r")
    assert location is not None
    node = next(iter(Reader(location)()))
    np.testing.assert_array_equal(np.asarray(node.data[0]), pixels)
    assert node.metadata["channel_names"] == ["red", "green", "blue"]


@pytest.mark.parametrize("options", [{"chunk": 8, "shard": 24}, {"zarr_format": 2}])
def test_what_was_stopped_goes_on(tmp_path: Path, options: Any) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(75, 45))
    export(store, tmp_path / "whole.zarr", **options)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        return len(asked) > 7

    with pytest.raises(RunStopped, match="the same command goes on"):
        export(store, tmp_path / "b.zarr", stop=stop, **options)
    assert left_in(tmp_path) == ["a.zarr", "b.zarr.exporting", "whole.zarr"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b.zarr.exporting/0").rglob("*") if path.is_file()}
    assert len(before) > 2
    export(store, tmp_path / "b.zarr", **options)
    for path, written in before.items():
        assert (tmp_path / "b.zarr" / path.relative_to(tmp_path / "b.zarr.exporting")).stat().st_mtime_ns == written
    assert digests(tmp_path / "b.zarr") == digests(tmp_path / "whole.zarr")
    assert left_in(tmp_path) == ["a.zarr", "b.zarr", "whole.zarr"]


def test_another_picture_begins_again(tmp_path: Path) -> None:
    first, _ = finished_store(tmp_path / "a.zarr", layout_for(75, 45))
    other, pixels = finished_store(tmp_path / "c.zarr", layout_for(75, 45), seed=1)
    with pytest.raises(RunStopped):
        export(first, tmp_path / "b.zarr", stop=lambda: True)
    export(other, tmp_path / "b.zarr")
    np.testing.assert_array_equal(OmeZarrStore.open(tmp_path / "b.zarr").read(0, Window(0, 0, 75, 45)), pixels)


def test_a_black_picture_has_all_its_files(tmp_path: Path) -> None:
    """Chunks of nothing but the fill value are there too: a file that is missing would look unfinished."""
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout_for(16, 16))
    store.write_shard(0, 0, 0, np.zeros((3, 16, 16), np.uint8))
    export(store, tmp_path / "b.zarr", chunk=8, shard=0)
    assert len([path for path in (tmp_path / "b.zarr/0/c").rglob("*") if path.is_file()]) == 4
    export(store, tmp_path / "c.zarr", chunk=8)
    export(tmp_path / "c.zarr", tmp_path / "d.png")


def test_a_target_is_only_replaced_on_request(tmp_path: Path) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(40, 30))
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr/mine").write_text("mine")
    with pytest.raises(StoreError, match=r"b\.zarr exists already"):
        export(store, tmp_path / "b.zarr")
    assert (tmp_path / "b.zarr/mine").read_text() == "mine"
    export(store, tmp_path / "b.zarr", overwrite=True)
    np.testing.assert_array_equal(OmeZarrStore.open(tmp_path / "b.zarr").read(0, Window(0, 0, 40, 30)), pixels)
    assert left_in(tmp_path) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "lz4"}, "no codec 'lz4': choose one of zstd, blosc, gzip"),
        ({"codec": "zstd:99"}, "the level of zstd is 1 to 22, not '99'"),
        ({"codec": "gzip:"}, "the level of gzip is 0 to 9"),
        ({"chunk": 20, "shard": 30}, "30 is no multiple of 20"),
        ({"zarr_format": 2, "shard": 32}, "Zarr v2 has no shards"),
        ({"zarr_format": 4}, "no zarr_format 4"),
        ({"chunk": 30_000}, "too large to be compressed"),
        ({"tile": 256}, "OME-Zarr takes no tile; it is an option of BigTIFF"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(20, 20))
    with pytest.raises(InputError, match=message):
        export(store, tmp_path / "b.zarr", **options)
    assert left_in(tmp_path) == ["a.zarr"]

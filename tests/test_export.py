"""What holds for every format, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.stores_support import digests, finished_store, layout_for, pixels_for, run_python, write_level
from tests.support import left_in
from urst_tiles.cli import app
from urst_tiles.errors import InputError, RunStopped, StoreError
from urst_tiles.events import Event, PhaseProgress, PhaseStarted
from urst_tiles.exporting import export
from urst_tiles.ledger import FileLog, Ledger, Record
from urst_tiles.stores import EXPORTERS, ExportOptions, OmeZarrStore, build_pyramid, exporter_for

NAMES = ["a.b.zarr", "a.tif", "a.ome.tif", "a.cog.tif", "a.dzi", "a.png", "a.jpg", "a.webp"]


def test_the_suffix_says_the_format() -> None:
    asked = {
        "out.zarr/": "omezarr",
        "out.ome.zarr": "omezarr",
        "a.TIFF": "bigtiff",
        "a.btf": "bigtiff",
        "a.OME.tif": "ome-tiff",
        "a.cog.tiff": "cog",
        "some.folder/a.dzi": "deepzoom",
        "a.PNG": "png",
        "a.jpeg": "jpeg",
        "a.webp": "webp",
    }
    assert {name: exporter_for(name).name for name in asked} == asked
    assert exporter_for("a.tif", "cog").name == "cog"
    with pytest.raises(InputError, match=r"a\.gif names no format: end it in one of \.zarr, \.tif"):
        exporter_for("a.gif")
    with pytest.raises(InputError, match="no format 'gif': choose one of omezarr, bigtiff, ome-tiff, cog"):
        exporter_for("a.tif", "gif")


def test_every_option_is_some_formats_and_no_suffix_is_two_formats() -> None:
    taken = set().union(*(exporter.takes for exporter in EXPORTERS))
    assert taken == {field for field in ExportOptions.__dataclass_fields__ if field != "memory"}
    suffixes = [suffix for exporter in EXPORTERS for suffix in exporter.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another process, a second later, with other memory to read in."""
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(90, 70, 3, "uint16", resolution=(10, 10)))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    for name in NAMES:
        export(store, tmp_path / "one" / name, memory=5_000)
    time.sleep(1.01)
    script = "import sys; from urst_tiles import export; [export(sys.argv[1], out) for out in sys.argv[2:]]"
    done = run_python(script, tmp_path / "s.zarr", *(tmp_path / "two" / name for name in NAMES))
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("name", NAMES)
def test_progress_ends_at_the_end(tmp_path: Path, name: str) -> None:
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(90, 70))
    events: list[Event] = []
    report = export(store, tmp_path / name, callbacks=(events.append,))
    assert events[0] == PhaseStarted("export")
    steps = [event for event in events[1:] if isinstance(event, PhaseProgress)]
    assert len(steps) == len(events) - 1
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total
    assert (report.kind, report.width, report.height) == (exporter_for(name).name, 90, 70)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stopped_never_has_the_targets_name(tmp_path: Path, name: str) -> None:
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(90, 70))
    with pytest.raises(RunStopped, match="goes on" if exporter_for(name).resumes else "begun again"):
        export(store, tmp_path / name, stop=lambda: True)
    assert not (tmp_path / name).exists()
    left = [entry for entry in left_in(tmp_path) if not entry.endswith(".exporting")]
    assert left == ["s.zarr"]


@pytest.mark.parametrize("name", NAMES)
def test_unfinished_stores_are_refused(tmp_path: Path, name: str) -> None:
    layout = layout_for(90, 70)
    store = OmeZarrStore.create(tmp_path / "s.zarr", layout)
    write_level(store, pixels_for(layout))
    with pytest.raises(
        StoreError, match=r"not finished: shard 0,0 of level 1 is missing\. Run the command that writes"
    ):
        export(tmp_path / "s.zarr", tmp_path / name)
    assert left_in(tmp_path) == ["s.zarr"]
    build_pyramid(store)
    export(tmp_path / "s.zarr", tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_only_replaced_on_request(tmp_path: Path, name: str) -> None:
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(40, 30))
    export(store, tmp_path / name)
    before = left_in(tmp_path)
    with pytest.raises(StoreError, match="exists already"):
        export(store, tmp_path / name)
    export(store, tmp_path / name, overwrite=True)
    assert left_in(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_left_out_as_empty_is_not_missing(tmp_path: Path, name: str) -> None:
    layout = layout_for(90, 70)
    pixels = pixels_for(layout)
    pixels[:, :32, 32:64] = 0
    sparse = OmeZarrStore.create(tmp_path / "s.zarr", layout)
    write_level(sparse, pixels)
    build_pyramid(sparse)
    (tmp_path / "s.zarr/0/c/0/0/1").unlink()
    with pytest.raises(StoreError, match="shard 0,1 of level 0 is missing"):
        export(tmp_path / "s.zarr", tmp_path / name)
    with Ledger(FileLog(tmp_path / "s.zarr/urst/ledger/main.log")) as ledger:
        ledger.add(Record(0, 1, empty=True))
    export(tmp_path / "s.zarr", tmp_path / name)


def test_other_peoples_stores_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.zarr does not exist"):
        export(tmp_path / "none.zarr", tmp_path / "a.png")
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(40, 30))
    with pytest.raises(InputError, match="no local path"):
        export(store, "s3://bucket/a.png")
    with pytest.raises(StoreError, match=r"the folder .*none does not exist"):
        export(store, tmp_path / "none/a.png")
    wrong: Any = {"quality": 101}
    with pytest.raises(InputError, match="quality must be 1 to 100"):
        export(store, tmp_path / "a.jpg", **wrong)


def test_the_command(tmp_path: Path) -> None:
    finished_store(tmp_path / "s.zarr", layout_for(90, 70, 3, "uint16"))
    asked = [
        str(tmp_path / "s.zarr"),
        str(tmp_path / "a.tif"),
        "--format",
        "cog",
        "--compression",
        "lzw",
        "--tile",
        "64",
    ]
    done = CliRunner().invoke(app, ["export", *asked, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kind"] == "cog"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "s.zarr"), str(tmp_path / "a.jpg"), "--quality", "80"])
    assert "90 x 70 px" in done.stdout
    assert "note       JPEG has 8 bit" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_and_called_again(tmp_path: Path) -> None:
    """kill -9 while tiles are written; the same call ends with the same files."""
    store, _ = finished_store(tmp_path / "s.zarr", layout_for(200, 150, chunk=64))
    export(store, tmp_path / "whole.dzi", tile=20, memory=30_000)
    script = (
        "import sys, time; from urst_tiles import export; "
        "export(*sys.argv[1:], tile=20, memory=30_000, callbacks=(lambda event: time.sleep(0.005),))"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "s.zarr"), str(tmp_path / "a.dzi")]
    with subprocess.Popen(arguments) as process:
        while not list(tmp_path.glob("a_files.exporting/8/4_3.jpg")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "a.dzi").exists()
    export(store, tmp_path / "a.dzi", tile=20, memory=30_000)
    assert digests(tmp_path / "a_files") == digests(tmp_path / "whole_files")

"""The command as a user types it, in a process of its own where that matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import MOSAIC, SHARED, left_in, picture, tree, write_tiff
from urst_tiles.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command: (exit status, stdout, stderr)."""

    def typed(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return typed


def test_stylize_plan_and_info(tmp_path: Path, run: Run) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    status, out, err = run("plan", source, tmp_path / "o.tif", "--network", "identity", "--window", 64)
    assert (status, err) == (0, "")
    assert "windows    35 of 64 px, core 64, halo 0, stride 1" in out
    assert "memory" in out
    assert "disk" in out
    status, out, _ = run("plan", source, "--network", "identity", "--window", 64, "--json")
    planned = json.loads(out)
    assert planned["windows"] == 35
    assert planned["memory"]["bytes"] == max(sum(parts.values()) for parts in planned["memory"]["phases"].values())
    status, out, err = run("stylize", source, tmp_path / "o.tif", "--network", "identity", "--window", 64)
    assert status == 0
    assert "wrote" in out
    assert err == ""  # not a terminal: no progress
    status, out, _ = run("info", tmp_path / "o.tif", "--json")
    assert json.loads(out)["width"] == 400
    status, out, _ = run("stylize", source, tmp_path / "o.zarr", "--network", "identity", "--json", "--quiet")
    assert json.loads(out)["shards"] == 1
    status, out, _ = run("info", tmp_path / "o.zarr")
    assert "run          identity" in out
    assert left_in(tmp_path) == ["in.tif", "o.tif", "o.zarr"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("stylize", "{missing}.tif", "{o}.zarr", "--network", "identity"), "missing"),
        (("stylize", "{text}", "{o}.zarr", "--network", "identity"), "text"),
        (("stylize", "{in}", "{o}.zarr"), "--network johnson --weights FILE"),
        (("stylize", "{in}", "{o}.zarr", "--network", "vangogh"), "vangogh"),
        (("stylize", "{in}", "{o}.zarr", "--network", "johnson", "--weights", "{text}"), "text"),
        (("stylize", "{in}", "{o}.zarr", "--network", "johnson", "--weights", "{missing}.pth"), "missing"),
        (("stylize", "{in}", "{o}.zarr", "--style", "nobody"), "nobody"),
        (("stylize", "{in}", "{o}.gif", "--network", "identity"), "names no format: end it in one of .zarr"),
        (("stylize", "{in}", "{in}", "--network", "identity"), "exists"),
        (("stylize", "{in}", "{o}.zarr", "--network", "identity", "--region", "1,2,3"), "COL,ROW,WIDTH,HEIGHT"),
        (("stylize", "{in}", "{o}.zarr", "--network", "identity", "--window", "0"), "window"),
        (("stylize", "{in}", "{o}.zarr", "--network", "identity", "--memory", "lots"), "not a size"),
        (("stylize", "{in}", "{o}.zarr", "--network", "identity", "--memory", "10MiB"), "the smallest that works"),
        (("stylize", "{in}", "{o}.zarr", "--network", "identity", "--device", "abacus"), "abacus"),
        (("stylize", "{in}", "{missing}/o.zarr", "--network", "identity"), "no folder"),
        (("info", "{missing}.tif"), "missing"),
        (("plan", "{in}", "--network", "identity", "--halo", "-1"), "halo"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path: Path, run: Run, words: tuple[str, ...], line: str) -> None:
    write_tiff(tmp_path / "in.tif", picture(30, 40))
    (tmp_path / "text.txt").write_text("no picture and no weights")
    places = {"in": "in.tif", "text": "text.txt", "missing": "missing", "o": "o"}
    typed = [word.format(**{name: tmp_path / place for name, place in places.items()}) for word in words]
    before = left_in(tmp_path)
    status, out, err = run(*typed)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err
    assert left_in(tmp_path) == before


def test_wrong_words_get_usage(run: Run) -> None:
    status, _, err = run("stylize", "only-one")
    assert status == 2
    assert "Missing argument" in err
    status, out, _ = run("--version")
    assert out.startswith("urst-tiles ")


def test_debug_shows_the_traceback(tmp_path: Path, run: Run) -> None:
    status, _, err = run("--debug", "info", tmp_path / "missing.tif")
    assert status == 2
    assert "Traceback" in err


def test_a_pickle_with_code_is_never_executed(tmp_path: Path, run: Run) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "executed"),))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state": Evil()}))
    write_tiff(tmp_path / "in.tif", picture(30, 40))
    status, _, err = run(
        "stylize", tmp_path / "in.tif", tmp_path / "o.zarr", "--network", "johnson", "--weights", tmp_path / "evil.pth"
    )
    assert status == 2
    assert "not executed" in err
    assert left_in(tmp_path) == ["evil.pth", "in.tif"]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the published weights in ../shared")
def test_weights_of_another_method_are_named(tmp_path: Path, run: Run) -> None:
    write_tiff(tmp_path / "in.tif", picture(30, 40))
    other = SHARED / "weights" / "wct" / "feature_invertor_conv3_1.pth"
    status, _, err = run("plan", tmp_path / "in.tif", "--network", "johnson", "--weights", other)
    assert status == 2
    assert "johnson" in err.lower()
    assert "wct" in err.lower()


def test_a_folder_that_cannot_be_written(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiff(tmp_path / "in.tif", picture(30, 40))
    (tmp_path / "locked").mkdir()
    # The superuser may write anywhere: ask the question as an ordinary user would have it answered.
    monkeypatch.setattr("urst_tiles.runs.os.access", lambda path, mode: Path(path).name != "locked")
    status, _, err = run("stylize", tmp_path / "in.tif", tmp_path / "locked" / "o.zarr", "--network", "identity")
    assert status == 2
    assert "not writable" in err


def test_law_9_killed_and_resumed_equals_never_interrupted(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(1100, 1300), tile=128)
    command = [sys.executable, "-m", "urst_tiles", "stylize", str(source)]
    settings = ["--network", "identity", "--window", "32", "--thumbnail", "64"]
    subprocess.run([*command, str(tmp_path / "calm.tif"), *settings, "--keep-store"], check=True, capture_output=True)
    ledger = tmp_path / "rough.tif.partial.zarr" / "urst" / "ledger" / "main.log"
    kills = 0
    for records in (1, 40, 100, 10**9):
        process = subprocess.Popen(
            [*command, str(tmp_path / "rough.tif"), *settings, "--keep-store"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if ledger.exists() and ledger.stat().st_size >= 28 * records:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
        if process.returncode == 0:
            break
        assert not (tmp_path / "rough.tif").exists()
    assert process.returncode == 0
    assert kills >= 3
    assert tree(tmp_path / "rough.tif.zarr") == tree(tmp_path / "calm.tif.zarr")
    assert (tmp_path / "rough.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()
    assert left_in(tmp_path) == ["calm.tif", "calm.tif.zarr", "in.tif", "rough.tif", "rough.tif.zarr"]


@pytest.mark.skipif(not MOSAIC.exists(), reason="needs the published mosaic.pth in ../shared")
def test_published_weights_from_the_command_line(tmp_path: Path, run: Run) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(200, 260))
    status, out, _ = run(
        "stylize", source, tmp_path / "o.zarr", "--network", "johnson", "--weights", MOSAIC, "--thumbnail", 64
    )
    assert status == 0
    assert "halo 56" in out


def test_demo_makes_a_preview(tmp_path: Path, run: Run) -> None:
    import tifffile
    from PIL import Image

    status, out, _ = run("demo", tmp_path / "demo", "--megapixels", 0.1)
    assert status == 0
    assert "network" in out
    with Image.open(tmp_path / "demo" / "preview.png") as preview:
        assert preview.size == (2 * 387, 258)
    assert tifffile.imread(tmp_path / "demo" / "demo.tif").shape == (258, 387, 3)
    status, _, _ = run("demo", tmp_path / "demo", "--megapixels", 0.1)
    assert status == 0  # again: an earlier demo is replaced
    status, _, err = run("demo", tmp_path / "demo", "--megapixels", 0)
    assert status == 2
    assert "out of range" in err

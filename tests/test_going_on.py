"""A run that goes on keeps the windows and the engine that it began with, whatever memory and libraries there are by
then: they decide pixels, and were chosen by what there was."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.support import holding, left_in, picture, tree, write_tiff
from urst_tiles import plan, stylize
from urst_tiles.engines.choosing import suitable
from urst_tiles.errors import InputError, MemoryBudgetError, RunMismatchError, StoreError
from urst_tiles.networks.untrained import untrained
from urst_tiles.planning import plan_run
from urst_tiles.runs import Begun, RunRecord, run_record
from urst_tiles.styles import DEFAULT_STYLE

NETWORK = untrained(width=4, seed=1)
HALO = 256
"""In pixels: so wide that larger windows pay, if there is a budget for them."""
SETTINGS: dict[str, Any] = {"network": NETWORK, "thumbnail": 64, "halo": HALO, "engine": "torch"}
USUAL, GROWN = 1064, 2 * (1064 - 2 * HALO) + 2 * HALO


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two shards."""
    return write_tiff(tmp_path_factory.mktemp("going_on") / "in.tif", picture(700, 2100))


def begin(source: Path, target: str | Path, **more: Any) -> Begun:
    """An unfinished run, of whose shards one is made; what it chose."""
    assert not stylize(source, target, shards="1/2", **(SETTINGS | more)).finished
    begun = Begun.of(run_record(target if "://" in str(target) else f"{target}.partial.zarr"))
    assert begun is not None
    return begun


def tight(source: Path) -> int:
    """A budget, in bytes, that windows of the usual side do not fit by little, and smaller ones do."""
    with holding(), pytest.raises(MemoryBudgetError) as caught:
        plan(source, time_it=False, memory=1, window=USUAL, **SETTINGS)
    return caught.value.smallest - (9 << 20)  # 8 are added to what it takes, because that sways


@pytest.mark.parametrize("later", [None, "12GiB"])
def test_grown_windows_stay_whatever_the_budget_is_by_then(source: Path, tmp_path: Path, later: str | None) -> None:
    assert begin(source, tmp_path / "o.zarr", memory="8GiB").window == GROWN
    report = stylize(source, tmp_path / "o.zarr", memory=later, **SETTINGS)
    assert (report.shards, report.shards_before) == (1, 1)
    stylize(source, tmp_path / "calm.zarr", memory="8GiB", **SETTINGS)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_windows_that_shrank_stay(source: Path, tmp_path: Path) -> None:
    budget = tight(source)
    with holding():
        begun = begin(source, tmp_path / "o.zarr", memory=budget)
    assert begun.window < USUAL
    found = plan(source, target=tmp_path / "o.zarr", time_it=False, **SETTINGS)
    assert (found.tiles.window, found.tiles.cores) == (begun.window, begun.cores)
    assert any("the unfinished run that stands there has it so" in note for note in found.notes)
    assert plan(source, target=tmp_path / "other.zarr", time_it=False, **SETTINGS).tiles.window == USUAL
    assert stylize(source, tmp_path / "o.zarr", **SETTINGS).shards_before == 1
    with holding():
        stylize(source, tmp_path / "calm.zarr", memory=budget, **SETTINGS)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_a_process_that_holds_more_by_then_goes_on_or_says_what_it_takes(source: Path, tmp_path: Path) -> None:
    """As in a notebook, where the same call would have chosen smaller windows."""
    with holding(400):
        assert begin(source, tmp_path / "o.zarr").window == USUAL
    budget = tight(source)
    with holding(400), pytest.raises(MemoryBudgetError) as caught:
        stylize(source, tmp_path / "o.zarr", memory=budget, **SETTINGS)
    assert re.search(rf"unfinished run that stands there, whose windows are {USUAL} px", str(caught.value))
    assert "start afresh (--overwrite)" in str(caught.value)
    assert left_in(tmp_path) == ["o.zarr.partial.zarr"]
    with holding(400):
        assert plan(source, time_it=False, memory=budget, **SETTINGS).tiles.window < USUAL
        report = stylize(source, tmp_path / "o.zarr", memory=caught.value.smallest, **SETTINGS)
    assert report.shards_before == 1


def test_afresh_nothing_is_kept(source: Path, tmp_path: Path) -> None:
    begin(source, tmp_path / "o.zarr", memory="8GiB")
    report = stylize(source, tmp_path / "o.zarr", overwrite=True, **SETTINGS)
    assert (report.shards, report.shards_before) == (2, 0)
    record = run_record(tmp_path / "o.zarr")
    assert record is not None
    assert record.settings["geometry"]["window"] == USUAL


def test_what_is_asked_for_is_not_overruled(source: Path, tmp_path: Path) -> None:
    begin(source, tmp_path / "o.zarr", memory="8GiB")
    with pytest.raises(RunMismatchError, match=rf"geometry.window: {GROWN} → {USUAL}"):
        stylize(source, tmp_path / "o.zarr", window=USUAL, **SETTINGS)
    with pytest.raises(RunMismatchError, match=rf"geometry.halo: {HALO} → 128"):
        stylize(source, tmp_path / "o.zarr", **(SETTINGS | {"halo": 128}))
    with pytest.raises(RunMismatchError, match=r"network\.weights"):
        stylize(source, tmp_path / "o.zarr", **(SETTINGS | {"network": untrained(width=4, seed=2)}))


@pytest.mark.parametrize("engine", ["llvm", "openvino"])
def test_the_engine_stays(source: Path, tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"llvm": "llvmlite", "openvino": "openvino"}[engine])
    open_to = SETTINGS | {"engine": "auto"}
    for begun_with, pixels in ((engine, 1), ("torch", 1 << 40)):
        target = tmp_path / f"{begun_with}.zarr"
        begin(source, target, engine=begun_with)
        with patch("urst_tiles.planning.suitable", partial(suitable_for, pixels)):
            assert plan(source, time_it=False, **open_to).engine != begun_with
            report = stylize(source, target, **open_to)
        assert report.shards_before == 1
        record = run_record(target)
        assert record is not None
        assert record.settings["engine"] == begun_with


def suitable_for(size: int, engine: str, *, pixels: int, **more: Any) -> tuple[str, ...]:
    """As for a raster of another size: small ones are PyTorch's."""
    return suitable(engine, pixels=size, **more)


def without_llvm(engine: str, **_: object) -> tuple[str, ...]:
    if engine == "llvm":
        raise InputError("LLVM is not here")
    return ("torch",)


def test_an_engine_that_is_not_here_any_more_is_named(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    begin(source, tmp_path / "o.zarr", engine="llvm")
    with (
        patch("urst_tiles.planning.suitable", without_llvm),
        pytest.raises(RunMismatchError, match="engine: llvm → torch"),
    ):
        stylize(source, tmp_path / "o.zarr", **(SETTINGS | {"engine": "auto"}))


def test_one_that_does_not_agree_any_more_is_refused(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    begin(source, tmp_path / "o.zarr", engine="llvm")
    with (
        patch("urst_tiles.planning.why_not", lambda _, engine: "LLVM is off" if engine == "llvm" else None),
        pytest.raises(InputError, match="LLVM is off"),
    ):
        stylize(source, tmp_path / "o.zarr", **(SETTINGS | {"engine": "auto"}))


def test_below_a_url_too(source: Path) -> None:
    url = "memory://going-on/o.zarr"
    assert begin(source, url, memory="8GiB").window == GROWN
    assert stylize(source, url, **SETTINGS).shards_before == 1
    stylize(source, url, overwrite=True, **SETTINGS)


def test_whoever_was_not_the_first_plans_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts begin at the same moment, and each has planned before one of them creates the run."""
    planned: list[Begun | None] = []

    def slow(*given: Any, begun: Begun | None, **more: Any) -> Any:
        made: Any = plan_run(*given, begun=begun, **more)
        planned.append(begun)
        if len(planned) == 1:
            stylize(source, tmp_path / "o.zarr", shards="1/2", memory="8GiB", **SETTINGS)
        return made

    monkeypatch.setattr("urst_tiles.stylizing.plan_run", slow)
    report = stylize(source, tmp_path / "o.zarr", shards="2/2", **SETTINGS)
    assert [None if begun is None else begun.window for begun in planned] == [None, None, GROWN]
    assert report.finished


def test_records_that_say_nothing_of_it_are_passed_over() -> None:
    geometry = {"window": 1064, "halo": 256, "stride": 4, "cores": 2}
    good = {"geometry": geometry, "engine": "torch"}
    assert Begun.of(RunRecord(good, {}, {})) == Begun(1064, 256, 4, 2, "torch")
    assert Begun.of(None) is None
    for bad in (
        {},
        {"geometry": geometry},
        {"geometry": 3, "engine": "torch"},
        {"geometry": geometry | {"window": "1064"}, "engine": "torch"},
        {"geometry": geometry | {"cores": True}, "engine": "torch"},
        {"geometry": geometry | {"cores": 0}, "engine": "torch"},
        {"geometry": geometry | {"window": 512}, "engine": "torch"},
        {"geometry": geometry | {"window": 10**9}, "engine": "torch"},
        {"geometry": geometry, "engine": None},
    ):
        assert Begun.of(RunRecord(bad, {}, {})) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"settings": 3, "source": {}}', b'{"settings": {}, "source": 1}'],
)
def test_a_record_that_is_none_is_said_to_be_none(source: Path, tmp_path: Path, data: bytes) -> None:
    assert RunRecord.from_bytes(data) is None
    notes = tmp_path / "o.zarr.partial.zarr" / "urst"
    notes.mkdir(parents=True)
    (notes / "run.json").write_bytes(data)
    with pytest.raises(StoreError, match="holds no run of this program"):
        stylize(source, tmp_path / "o.zarr", **SETTINGS)


def test_the_smallest_that_a_plan_names_is_enough_for_the_run(tmp_path: Path) -> None:
    """In processes of their own: one that only plans must not count less than one that runs."""
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    words = (source, tmp_path / "o.zarr", "--style", DEFAULT_STYLE, "--thumbnail", 64, "--memory")
    status, said = typed("plan", *words, "1MiB")
    named = re.search(r"--memory (\d+MiB)", said)
    assert (status, named is not None) == (2, True), said
    assert named is not None
    assert typed("stylize", *words, named[1], "--quiet") == (0, "")


def typed(*words: object) -> tuple[int, str]:
    """The command in a process of its own: its status and what it said on stderr."""
    command = [sys.executable, "-m", "urst_tiles", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr

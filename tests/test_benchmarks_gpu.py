"""The benchmark of a GPU, as far as it goes without one: what nvidia-smi says, sums and tables, and a small run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import common, gpu, gpu_frozen, gpu_runs, gpu_speed
from benchmarks.gpu_child import Child
from benchmarks.gpu_watch import Sample, Watch, parsed, points, query, summary, thinned
from benchmarks.measuring import Spread
from tests.support import picture, write_tiff
from urst_tiles.networks import sample_network

MIB = 2**20
SIZE = {"width": 320, "height": 220}


def samples(*utilisations: float | None, start: float = 100.0) -> list[Sample]:
    """One a second, each with a MiB more."""
    return [Sample(start + second, percent, (10 + second) * MIB) for second, percent in enumerate(utilisations)]


class Told(Watch):
    """A watch that has been told its samples."""

    def __init__(self, given: list[Sample], note: str | None = None) -> None:
        super().__init__(("no such command",))
        self.given, self.said = given, note

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.samples, self.note = self.given, self.said


def test_lines_of_nvidia_smi_become_samples() -> None:
    found = parsed("2026/01/31 12:00:00.250, 97, 10240\n")
    assert found is not None
    assert (found.utilisation, found.memory) == (97.0, 10240 * MIB)
    later = parsed("2026/01/31 12:00:01.500, 3, 10240")
    assert later is not None
    assert later.at - found.at == pytest.approx(1.25)


def test_what_a_gpu_does_not_say_is_none() -> None:
    found = parsed("2026/01/31 12:00:00.250, [N/A], [Not Supported]")
    assert found is not None
    assert (found.utilisation, found.memory) == (None, None)


@pytest.mark.parametrize("line", ["", "No devices were found", "97, 10240", "yesterday, 97, 10240"])
def test_other_lines_are_no_samples(line: str) -> None:
    assert parsed(line) is None


def test_utilisation_counts_between_the_moments_and_memory_always() -> None:
    found = summary(samples(0, 100, 40, None, 70, 0), 101, 104)
    assert found["samples"] == 3
    assert found["mean_utilisation"] == pytest.approx(70)
    assert found["share_below_half"] == pytest.approx(1 / 3)
    assert (found["memory_before_bytes"], found["memory_peak_bytes"]) == (10 * MIB, 15 * MIB)


def test_no_samples_have_no_mean() -> None:
    found = summary([], 0, 1)
    assert found["samples"] == 0
    assert found["mean_utilisation"] is found["share_below_half"] is found["memory_peak_bytes"] is None


def test_points_are_thinned_to_means_of_neighbours() -> None:
    given = points(samples(0, 100, None, 50, 10), 100)
    assert thinned(given, 5) == given
    assert thinned(given, 3) == [(0.5, 50, 10.5 * MIB), (2.5, 50, 12.5 * MIB), (4, 10, 14 * MIB)]


def test_a_watch_samples_and_ends_its_process_when_something_fails() -> None:
    talks = "import time\nwhile True: print('2026/01/31 12:00:00.250, 97, 10240', flush=True); time.sleep(0.01)"
    watch = Watch((sys.executable, "-c", talks))

    def fails() -> None:
        with watch:
            until = time.monotonic() + 10
            while len(watch.samples) < 3 and time.monotonic() < until:
                time.sleep(0.01)
            assert status(watch) is None
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert len(watch.samples) >= 3
    assert abs(watch.samples[0].at - time.time()) < 1000  # not a day in January: whole time zones do not count
    assert watch.note is None
    assert status(watch) == -15


def status(watch: Watch) -> int | None:
    """What its process ended with; None while it goes on."""
    assert watch._process is not None
    return watch._process.poll()


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_watch._PATIENCE", 0.2)
    deaf = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    with Watch((sys.executable, "-c", deaf)) as watch:
        until = time.monotonic() + 10
        while not watch._other and time.monotonic() < until:
            time.sleep(0.01)
    assert status(watch) == -9
    assert watch.note is not None
    assert watch.note.endswith("gave no samples: deaf")


def test_without_nvidia_smi_a_note_says_so() -> None:
    with Watch(("no-such-nvidia-smi",)) as watch:
        pass
    assert watch.samples == []
    assert watch.note == "there is no no-such-nvidia-smi here: utilisation was not sampled"
    assert query("3")[:2] == ("nvidia-smi", "--id=3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "runs"])
    with pytest.raises(SystemExit) as raised:
        gpu.main()
    said = str(raised.value.code)
    assert "there is no CUDA device" in said
    assert "\n" not in said
    assert "gpu" not in common.machine()


def test_sizes_are_read_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu._parser().parse_args(["--sizes", "300x200", "40x30"]).sizes == [(300, 200), (40, 30)]
    for wrong in ("300", "300x", "x200", "0x5", "-3x5"):
        with pytest.raises(SystemExit):
            gpu._parser().parse_args([f"--sizes={wrong}"])
        assert "write it like 12000x8000" in capsys.readouterr().err


def test_a_machine_with_a_gpu_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    for name, value in (
        ("is_available", True),
        ("current_device", 0),
        ("get_device_properties", facts),
        ("device_count", 2),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr("shutil.which", lambda _: None)
    found = common.machine()["gpu"]
    assert (found["name"], found["memory_gib"], found["capability"]) == ("A card", 80.0, "9.0")
    assert (found["devices"], found["driver"]) == (2, None)


def test_parts_of_an_earlier_call_stay_if_the_machine_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.earlier(path, {"cpu": "x"}) == {}
    path.write_text(json.dumps({"machine": {"cpu": "x"}, "speed": [1], "else": 2}))
    assert gpu.earlier(path, {"cpu": "x"}) == {"speed": [1]}
    assert gpu.earlier(path, {"cpu": "y"}) == {}


def test_what_was_found_so_far_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"cpu": "x"}
    monkeypatch.setattr(gpu, "machine", lambda: here)
    monkeypatch.setattr(common, "machine", lambda: here)
    told = [(float(second), 50.0, 1.0) for second in range(100)]
    row = {"method": "m", "asked": "torch", "precision": "tf32", **SIZE, "first_and_last_window": None, "points": told}
    gpu.keep({"speed": [1]}, "name", tmp_path)
    path = gpu.keep({"runs": [row, {"error": "died"}]}, "name", tmp_path)
    found = json.loads(path.read_text())
    assert found["speed"] == [1]
    assert [len(each["points"]) for each in found["runs"]] == [34, 0]
    assert path.with_suffix(".png").exists()


def test_rows_take_ratios_to_both_references_turn_by_turn() -> None:
    answers: dict[str, list[dict[str, Any]]] = {
        "reference": [{"seconds": 4.0}, {"seconds": 8.0}],
        "reference float32": [{"seconds": 8.0}, {"seconds": 16.0}],
        "torch float32 x 8": [{"seconds": 1.0, "limit": None}, {"seconds": 2.0, "limit": 4}],
    }
    asked = {"torch float32 x 8": {"engine": "torch", "precision": "float32", "batch": 8}}
    facts = {"windows": {"128": {"kept": 2_000_000, "flop": 1e9}}, "reference_flop": 1e9}
    reference, exact, ours = gpu_speed.rows_of(answers, asked, facts, 128, 4_000_000)
    assert reference["times_the_reference"]["median"] == 1
    assert exact["times_the_reference"]["median"] == 0.5
    assert ours["megapixels_per_second"] == Spread.of([2.0, 1.0]).to_json()
    assert ours["times_the_reference"]["low"] == ours["times_the_reference"]["high"] == 2
    assert ours["times_the_float32_reference"]["median"] == 4
    assert (ours["batch"], ours["limit"], reference["limit"]) == (8, 4, None)
    found = {
        "method": "m",
        "weights": "w",
        "halo": 8,
        "rows": [reference, ours],
        "float32_against_cpu": {"error": "no"},
        "levels_off": {"torch tf32": {"mean": 0.1, "quantile_0.999": 1.0, "largest": 2.0}},
        "batch_against_one_by_one": {},
        **facts,
    }
    lines = gpu_speed.speed_lines(found)
    assert "memory ran out, 4 at a time" in lines[2]
    assert lines[3:] == [
        "  torch tf32: 0.1 levels off in the mean, 99.9 % within 1, 2 at most",
        "  float32 against the CPU's: no",
    ]


def test_ways_that_fail_are_said_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("it is too large")

    assert list(gpu_speed.working({"a": dict, "b": fails})) == ["a"]
    assert capsys.readouterr().out == "b: it is too large\n"


def test_all_ways_to_run_a_network_make_the_same_picture() -> None:
    network = sample_network("adain")
    frozen = network.freeze(network.neutral_statistics)
    fresh = torch.rand(2, 3, 160, 160).contiguous(memory_format=torch.channels_last)
    rows = gpu_frozen.compared(frozen, fresh, "float32", repetitions=2, calls=1)
    assert [row["way"] for row in rows] == ["eager", "padded", "channels first"]
    assert all(row["levels_off"] < 0.1 for row in rows)
    assert rows[0]["times_eager"] == {"median": 1, "low": 1, "high": 1, "count": 2}
    told = {"method": "adain", "precision": "float32", "batch": 2}
    lines = gpu_speed.frozen_lines({**told, "ways": rows})
    assert [line.split(":")[0] for line in lines] == [f"adain, float32 x 2, {row['way']}" for row in rows]
    assert gpu_speed.frozen_lines({**told, "error": "no"}) == ["adain, float32 x 2: no"]


def test_ways_twice_as_fast_as_eager_are_so_in_each_turn() -> None:
    found = gpu_frozen._ratios({"eager": [2.0, 6.0], "graph": [1.0, 3.0]}, "graph")
    assert found == {"median": 2, "low": 2, "high": 2, "count": 2}


def test_the_child_times_batches_and_finds_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.throughput_child.ERROR_SIDE", 128)
    child = Child({"method": "style", "weights_dir": None, "patch": 64, "grid": 1, "thumbnail": 64})
    asked = {"engine": "torch", "precision": "float32", "window": 128, "batch": 2}
    assert child.answer({"what": "batch", "windows": 3, **asked})["seconds"] > 0
    assert child.answer({"what": "reference", "tf32": False})["seconds"] > 0
    assert child.answer({"what": "cpu"})["largest"] == 0
    assert child.answer({"what": "alike", **asked})["largest"] <= 1
    assert child.answer({"what": "alike", **asked, "engine": "none"})["error"].startswith("engine 'none' is unknown")


def test_what_a_run_sustains_counts_the_pixels_of_windows() -> None:
    told = [(float(second), second % 2, 1_000_000) for second in range(20)]
    assert gpu_runs.sustained(told, [1.0, 3.0]) == pytest.approx(2_000_000, rel=0.1)
    assert gpu_runs.sustained(told[:2], [1.0, 3.0]) is None


def test_what_is_taken_beside_tensors() -> None:
    told = {"memory_before_bytes": 100, "memory_peak_bytes": 1100}
    assert gpu_runs.beside_tensors(told, 700) == 300
    assert gpu_runs.beside_tensors(told, None) is None


def test_a_small_run_is_told_whole(tmp_path: Path) -> None:
    raster = write_tiff(tmp_path / "in.tif", picture(220, 320))
    facts = {"network": "-", "engine": "torch", "precision": "float32", "window": 160, "windows": 12}
    settings = {"raster": str(raster), **facts}
    now = time.time()
    # Whenever its windows are run: the moments are those of the run.
    watch = Told([Sample(now + tenth / 10, 40.0 if tenth % 4 else 80.0, tenth * MIB) for tenth in range(600)])
    found = gpu_runs.measured(settings, watch)
    assert found["megapixels"] == pytest.approx(0.0704)
    assert found["seconds_per_100_megapixels"] == pytest.approx(100 * found["seconds"] / 0.0704)
    assert found["seconds"] > found["seconds_by_phase"]["shards"] > 0
    assert found["sustained_of_alone"] > 0
    assert found["shards_of_alone"] > 0
    assert found["megapixels_per_second_alone"] > found["megapixels_per_second"]
    assert (found["window"], found["halo"], found["device_peak_bytes"]) == (160, 56, None)
    assert found["peak_bytes"] > 100 * MIB
    first, last = found["first_and_last_window"]
    assert 0 < first < last < found["seconds"] + 0.1
    assert found["gpu"]["samples"] == pytest.approx(10 * (last - first), abs=2)
    assert len(found["points"]) <= gpu_runs.POINTS
    line = gpu_runs.run_line({"method": "style", "asked": "torch", "precision": "float32", **SIZE, **found})
    assert line.startswith("style, torch float32, 320 x 220: ")


def test_a_run_that_died_says_so() -> None:
    row = {"method": "m", "asked": "torch", "precision": "tf32", **SIZE, "error": "out of memory"}
    assert gpu_runs.run_line(row) == "m, torch tf32, 320 x 220: out of memory"


def test_the_figure_shows_the_runs_that_were_sampled(tmp_path: Path) -> None:
    told = {"method": "m", "asked": "torch", "precision": "tf32", **SIZE, "first_and_last_window": [1.0, 3.0]}
    sampled = {**told, "points": [[0.0, 10.0, 1.0], [2.0, None, 1.0], [4.0, 90.0, 1.0]]}
    assert not gpu.figure([{**told, "points": []}, {"error": "died"}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert gpu.figure([{**told, "points": []}, sampled], tmp_path / "one.png")
    assert gpu.figure([sampled, sampled], tmp_path / "two.png")
    import imagecodecs

    one, two = (imagecodecs.png_decode((tmp_path / name).read_bytes()) for name in ("one.png", "two.png"))
    assert two.shape[0] > 1.5 * one.shape[0]
    assert np.ptp(one[..., :3]) > 100

"""What the benchmarks rest on: the reference way makes the same picture as ours, and the sums are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as listed
from benchmarks import published
from benchmarks.counting import CountedSource, Phases, process_bytes
from benchmarks.io import run_pipeline
from benchmarks.measuring import Line, Spread, Worker, alternate, level_errors
from benchmarks.memory_vs_resolution import growth
from benchmarks.pipeline import Child
from benchmarks.reference_way import cached, reference_way
from benchmarks.subjects import SUBJECTS, subject
from benchmarks.throughput import row
from benchmarks.time_vs_resolution import fitted
from tests.support import picture, write_tiff
from urst_tiles import collect_statistics, open_source
from urst_tiles.demo import landscape
from urst_tiles.geometry import Window
from urst_tiles.networks import METHODS, StyleNetwork, sample_network
from urst_tiles.networks.styling import StyleImage, Styling
from urst_tiles.networks.wct import random_levels, wct_network


def network_of(method: str) -> StyleNetwork:
    """Narrow, with random weights; of WCT three levels, as five amplify float32's rounding."""
    if method != "wct":
        return sample_network(method)
    return wct_network(random_levels(0, levels=(3, 2, 1)), Styling((StyleImage(picture(64, 64), 1.0),)))


@pytest.mark.parametrize("method", ["johnson", "adain", "wct", "linear-wct", "msgnet", "microast"])
def test_the_reference_way_with_the_exact_halo_makes_the_same_picture(method: str) -> None:
    network = network_of(method)
    halo, core = network.halo, 64
    side = 2 * core + 2 * halo  # so that four windows of the inside are whole
    side += -side % (2 * network.stride)
    photo = landscape(0, 0, side, side, side, side)
    statistics = collect_statistics(network, landscape(0, 0, 96, 96, 96, 96))
    whole = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        ours = network.freeze(statistics)(whole)
    unfrozen = cached(network, statistics)

    def difference(padding: int) -> float:
        theirs = reference_way(unfrozen, whole, patch=side // 2, padding=padding).clamp(0, 1)
        # The reference pads the picture, ours only feature maps: they meet the same pixels a halo away from its border.
        inside = (..., slice(halo, -halo or None), slice(halo, -halo or None))
        return float((theirs[inside] - ours[inside]).abs().max())

    assert difference(halo) < 1e-4
    assert difference(0) > 1e-3


def test_the_reference_way_keeps_the_size_of_any_picture() -> None:
    whole = torch.rand(1, 3, 70, 101)
    assert torch.equal(reference_way(lambda x: x, whole, patch=32, padding=8), whole)


@pytest.mark.parametrize(
    ("method", "elements"), [("msgnet", 2_990_947 - 592_832), ("linear-wct", 5_156_192 + 3_505_740 + 3_505_219)]
)
def test_random_weights_have_the_published_sizes(method: str, elements: int) -> None:
    # MSG-Net's file holds its encoder and the Inspiration layer twice.
    state = {"msgnet": published.msgnet, "linear-wct": published.linear_wct}[method]()
    assert sum(tensor.numel() for tensor in state.values()) == elements


def test_random_weights_have_the_shapes_of_the_methods() -> None:
    widths = {name: tuple(tensor.shape) for name, tensor in published.wct().items()}
    assert widths["level5.encoder.conv51.weight"] == (512, 512, 3, 3)
    assert widths["level4.decoder.conv41.weight"] == (256, 512, 3, 3)
    assert widths["level1.decoder.conv11.weight"] == (3, 64, 3, 3)
    assert {name for name in METHODS if METHODS[name].takes_weights} >= set(SUBJECTS) - {"style"}


@pytest.mark.parametrize("name", ["style", "johnson", "microast", "collaborative"])
def test_subjects_make_pictures(name: str) -> None:
    found = subject(name, Path("no such folder"))
    network = found.network
    photo = landscape(0, 0, 64, 64, 64, 64)
    frozen = network.freeze(collect_statistics(network, photo))
    made = frozen(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
    assert made.std() > 0.01
    assert found.weights.startswith("shipped" if name == "style" else "random")


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_a_line_through_points_of_a_line_leaves_nothing(slope: float, intercept: float) -> None:
    x = [1.0, 4.0, 9.0, 16.0]
    line = Line.through(x, [intercept + slope * each for each in x])
    assert line.slope == pytest.approx(slope, abs=1e-6)
    assert line.intercept == pytest.approx(intercept, abs=1e-6)
    assert max(map(abs, line.residuals)) < 1e-6


def test_a_point_off_the_line_is_seen() -> None:
    found = fitted({"1": [2.0, 1.0, 30.0], "2": [3.0], "3": [10.0]})
    assert found["seconds_per_megapixel"] == pytest.approx(4.0)
    assert found["intercept_seconds"] == pytest.approx(-3.0)
    assert found["runs"][1]["off_the_line"] == pytest.approx(-2 / 5)
    assert found["largest_residual_of_the_largest_time"] == pytest.approx(0.2)


def test_spreads_and_ratios_are_taken_turn_by_turn() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    # The machine is half as fast in the second turn: the speeds differ, the ratio does not.
    found = row([1.0, 2.0], [4.0, 8.0], 2_000_000, 4_000_000, 1e9, way="ours")
    assert found["megapixels_per_second"] == {"median": 1.5, "low": 1.0, "high": 2.0, "count": 2}
    assert found["times_the_reference"] == {"median": 2.0, "low": 2.0, "high": 2.0, "count": 2}
    assert found["gflop_per_second"]["high"] == 1.0


def test_ways_take_turns_and_the_first_of_each_does_not_count() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_level_errors_count_both_signs() -> None:
    one = np.zeros((1000,), np.uint8)
    other = one.copy()
    one[0], other[1] = 200, 250
    assert level_errors(one, other) == {
        "mean": 0.45,
        "quantile_0.999": pytest.approx(200, abs=0.1),
        "largest": 250.0,
    }


def test_growth_compares_the_largest_with_two_thousand() -> None:
    rows = [{"side": 1000, "peak_bytes": 9}, {"side": 2000, "peak_bytes": 10}, {"side": 3000, "peak_bytes": 11}]
    assert growth(rows) == {"peak_bytes": 1.1}
    assert growth(rows[:2]) == {}


def test_a_counted_source_counts_what_is_asked_of_it(tmp_path: Path) -> None:
    pixels = picture(200, 300)
    source = CountedSource(open_source(write_tiff(tmp_path / "in.tif", pixels, tile=64)))
    assert source.tiles == 4 * 5
    assert np.array_equal(source.read(Window(60, 10, 8, 100)), pixels[10:110, 60:68])
    assert (source.pixels_read, source.tiles_touched) == (800, 4)


@pytest.mark.skipif(process_bytes() == (0, 0), reason="this system does not count a process's bytes")
def test_phases_count_what_was_written_in_them(tmp_path: Path) -> None:
    from urst_tiles.events import PhaseStarted

    phases = Phases()
    phases(PhaseStarted("pyramid"))
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    phases(PhaseStarted("export"))
    phases.end()
    assert 1_000_000 <= phases.bytes_written("pyramid") < 1_010_000
    assert phases.bytes_written("export") < 10_000


@pytest.mark.skipif(process_bytes() == (0, 0), reason="this system does not count a process's bytes")
def test_an_identity_run_reads_and_writes_everything_once(tmp_path: Path) -> None:
    raster = write_tiff(tmp_path / "in.tif", picture(600, 700), tile=256)
    found = run_pipeline(str(raster), str(tmp_path / "out.zarr"), "identity")
    assert found["pixels_read_of_raster"] == 1.0
    assert 1.0 <= found["bytes_written_of_full_size"] < 1.05
    assert found["bytes_read_of_file"] == pytest.approx(1.0, abs=0.05)


def test_the_engine_alone_runs_the_windows_of_the_plan(tmp_path: Path) -> None:
    raster = write_tiff(tmp_path / "in.tif", picture(1200, 1100))
    settings = {"method": "style", "engine": "torch", "raster": str(raster), "weights_dir": None}
    child = Child(settings)
    calls = child._calls()
    assert sum(count * windows * height * width for (windows, height, width, *_), count in calls.items()) == (
        child._plan.tiles.window_pixels
    )
    assert sum(count * windows * kept.area for (windows, _, _, kept, _), count in calls.items()) == 1200 * 1100
    assert sum(calls.values()) == child.answer({"what": "facts"})["windows"]


def test_a_worker_that_dies_says_why() -> None:
    with Worker("benchmarks.reading_order", {}) as worker, pytest.raises(RuntimeError, match="expected 5 arguments"):
        worker.ask(what="facts")


def test_the_list_names_every_script() -> None:
    text = listed.listing()
    assert all(each.shows for each in listed.BENCHMARKS)
    scripts = {path.stem for path in Path(listed.__file__).parent.glob("*.py") if "def main(" in path.read_text()}
    assert scripts - {"__main__"} == {each.script for each in listed.BENCHMARKS}
    assert text.count("Megapixels a second of each method") == 1

"""A GPU's memory: the sum, the budget, the limit, and what happens when it runs out. No GPU is needed: what is asked of
one is answered here."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.networks_support import noise, statistics_of
from tests.support import picture, tree, write_tiff
from urst_tiles import plan, stylize
from urst_tiles.cli import app
from urst_tiles.copies import layout_copy_bytes
from urst_tiles.costs import NetworkCosts
from urst_tiles.engines import TorchEngine, devices, run_whole
from urst_tiles.errors import DeviceMemoryError, InputError, MemoryBudgetError
from urst_tiles.networks import load_network
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.options import RunOptions
from urst_tiles.planning import RunPlan
from urst_tiles.reports import plan_text
from urst_tiles.sources.arrays import ArraySource

MIB = 2**20
GIB = 2**30


class Small(nn.Module):
    """A network on a device that has room for so many windows."""

    def __init__(self, inner: nn.Module, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.inner, self.room, self.error = inner, room, error
        self.seen: list[int] = []
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        maps = x + 1
        self.held.append(weakref.ref(maps))
        if len(x) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        y: Tensor = self.inner(x)
        return y


class Negative(nn.Module):
    """Exact arithmetic: what a window becomes cannot hang on how many others it is run with."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x.flip(3)


def engine_with(room: int, inner: nn.Module | None = None, **options: Any) -> tuple[TorchEngine, Small]:
    small = Small(inner or Negative(), room, **options)
    return TorchEngine(FrozenNetwork(small, halo=8, stride=8, minimum=8), device="cpu"), small


def windows(count: int) -> Any:
    return np.stack([noise(24, 32, seed=seed) for seed in range(count)])


def test_fewer_windows_at_a_time_give_the_same_picture() -> None:
    network = untrained(width=2)
    frozen = network.freeze(statistics_of(network)).module
    found, whole = (run_whole(engine_with(room, frozen)[0], windows(7)).astype(int) for room in (4, 7))
    # Not byte for byte: how a convolution's sums are rounded may hang on how many windows it is given.
    assert np.abs(found - whole).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("count", "room"), [(8, 8), (8, 3), (7, 4), (5, 1)])
def test_fewer_windows_at_a_time_give_the_same_bytes(count: int, room: int, dtype: str) -> None:
    given = windows(count).astype(dtype) * (257 if dtype == "uint16" else 1)
    whole, _ = engine_with(count)
    engine, small = engine_with(room)
    found = run_whole(engine, given)
    assert found.dtype == given.dtype
    assert np.array_equal(found, run_whole(whole, given))
    assert whole.limit is None
    assert (engine.limit is None) == (count <= room)
    assert max(small.seen[-2:]) <= room


def test_the_smaller_batch_is_remembered() -> None:
    engine, small = engine_with(3)
    run_whole(engine, windows(8))
    assert small.seen == [8, 4, 2, 2, 2, 2]
    small.seen.clear()
    run_whole(engine, windows(6))
    assert small.seen == [2, 2, 2]
    assert engine.limit == 2


def test_one_window_that_does_not_fit_is_said_in_one_line() -> None:
    engine, _ = engine_with(0)
    with pytest.raises(DeviceMemoryError, match=r"one window of 32 x 24 px does not fit .* smaller --window") as caught:
        run_whole(engine, windows(4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", ["input tensor must fit into 32-bit index math", "upsample only supports less than INT_MAX elements, but"]
)
def test_maps_of_too_many_values_are_halved_too(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, refused = TorchEngine._run, 2

    def counted(self: TorchEngine, given: Any) -> Any:
        if len(given) >= refused:
            raise RuntimeError(words)
        return run(self, given)

    monkeypatch.setattr(TorchEngine, "_run", counted)
    engine, small = engine_with(8)
    assert np.array_equal(run_whole(engine, windows(5)), run_whole(engine_with(8)[0], windows(5)))
    assert set(small.seen) == {1}
    assert engine.limit == 1
    refused = 1
    # True in this case too: it is not the memory that is short.
    with pytest.raises(
        DeviceMemoryError, match=r"one window of 32 x 24 px makes a .* of 2\^31 values or more.* on cpu;"
    ):
        run_whole(engine, windows(1))


def test_other_errors_are_not_taken_for_it() -> None:
    engine, small = engine_with(3, error=ValueError)
    with pytest.raises(ValueError, match="CUDA out of memory"):
        run_whole(engine, windows(8))
    assert small.seen == [8]
    assert not devices.is_out_of_memory(RuntimeError("shapes do not match"))
    assert devices.is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert devices.is_out_of_memory(RuntimeError("CUDA error: out of memory"))


def test_the_failed_batchs_maps_are_gone_before_the_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, small = engine_with(4)
    left: list[int] = []
    monkeypatch.setattr(
        "urst_tiles.engines.torch.release_cache",
        lambda _device: left.append(sum(reference() is not None for reference in small.held)),
    )
    gc.disable()  # nothing may hang on the collector
    try:
        run_whole(engine, windows(8))
    finally:
        gc.enable()
    assert left == [0]


def test_weights_that_do_not_fit_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FrozenNetwork, "to", refuse)
    with pytest.raises(DeviceMemoryError, match="weights do not fit"):
        engine_with(1)


def test_a_run_goes_on_with_fewer_windows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, network = ArraySource(picture(200, 230)), load_network("identity")
    options: dict[str, Any] = {"network": network, "window": 64, "device": "cpu", "batch": 4}
    stylize(source, tmp_path / "whole.zarr", **options)
    run = TorchEngine._run

    def in_a_small_device(self: TorchEngine, given: Any) -> Any:
        if len(given) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, given)

    monkeypatch.setattr(TorchEngine, "_run", in_a_small_device)
    report = stylize(source, tmp_path / "parts.zarr", **options)
    assert tree(tmp_path / "whole.zarr") == tree(tmp_path / "parts.zarr")
    assert report.batch == 1
    assert "4 windows a call were too much for the GPU; 1 was run at a time" in report.notes


def test_the_limit_reaches_the_engine_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr("urst_tiles.engines.torch.limit_bytes", lambda _device, budget: limits.append(budget))
    source, network = ArraySource(picture(60, 70)), load_network("identity")
    report = stylize(source, tmp_path / "a.zarr", network=network, device="cpu", device_memory="3GiB")
    assert set(limits) == {3 * GIB}
    assert "the run is on a CPU: the budget of a GPU decides nothing" in report.notes
    assert report.device_peak is None
    assert report.device_estimate is None


def test_an_engine_without_a_limit_takes_the_last_ones_away(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    monkeypatch.setattr("urst_tiles.engines.torch.limit_bytes", lambda _device, budget: limits.append(budget))
    network = load_network("identity")
    frozen = network.freeze(network.neutral_statistics)
    TorchEngine(frozen, device="cpu", device_memory=GIB)
    TorchEngine(frozen, device="cpu")
    assert limits == [GIB, None]


# ---- planning, with a GPU that only says how much is free


@cache
def network_and_costs() -> tuple[StyleNetwork, NetworkCosts]:
    """Its graphs are recorded once for all plans here."""
    network = untrained(width=16)
    return network, NetworkCosts.of(network, network.freeze(network.neutral_statistics))


def planned(monkeypatch: pytest.MonkeyPatch, *, free: int = 80 * GIB, **options: Any) -> RunPlan:
    network, costs = network_and_costs()
    monkeypatch.setattr("urst_tiles.planning.NetworkCosts", SimpleNamespace(of=lambda *_: costs))
    for module in ("fitting", "engines.choosing"):
        monkeypatch.setattr(f"urst_tiles.{module}.choose_device", lambda _name: torch.device("cuda", 0))
    monkeypatch.setattr("urst_tiles.fitting.free_bytes", lambda _device: free)
    source = ArraySource(np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 30_000, 3)))
    return plan(source, network, time_it=False, device="cuda", **options)


def named(found: RunPlan, phase: str) -> dict[str, int]:
    return {part.name: part.bytes for each in found.memory.phases if each.name == phase for part in each.parts}


def on_device(found: RunPlan) -> dict[str, int]:
    assert found.memory.device is not None
    return {part.name: part.bytes for part in found.memory.device.peak.parts}


def test_on_a_gpu_its_memory_is_a_sum_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(monkeypatch)
    host, device = named(found, "shards"), on_device(found)
    assert found.batch == 8
    assert not {"activations", "padding"} & host.keys()
    assert {"windows", "CUDA", "shards in flight"} <= host.keys()
    # The thumbnail is measured on the CPU, whatever runs the windows.
    assert "activations" in named(found, "statistics")
    assert {"context", "network", "activations", "layouts", "workspace", "windows"} <= device.keys()
    assert found.memory.device is not None
    assert sum(device.values()) == found.memory.device.bytes
    # in and out, of two batches on their way; the same again on the host
    assert device["windows"] == host["pinned"] == 2 * 8 * 1064**2 * 3 * 2
    written = found.to_json()["device_memory"]
    assert written["bytes"] == found.memory.device.bytes
    assert written["budget"] == 80 * GIB
    assert "GPU " in plan_text(found)
    assert found.notes == ()


def test_a_plan_for_a_cpu_has_no_such_sum() -> None:
    found = plan(ArraySource(picture(60, 70)), load_network("identity"), time_it=False, device="cpu")
    assert found.memory.device is None
    assert found.to_json()["device_memory"] is None
    assert "GPU" not in plan_text(found)
    assert "CUDA" not in named(found, "shards")


@pytest.mark.parametrize("budget", [8 * GIB, 3 * GIB, 3 * GIB // 2])
def test_the_plan_fits_the_budget(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    found = planned(monkeypatch, device_memory=budget)
    assert found.memory.device is not None
    assert found.memory.device.bytes <= budget
    assert found.device_room == budget
    # Nothing was given away: twice the batch, or the window asked for, would not have fitted.
    if found.batch > 1 and found.batch < 8:
        with pytest.raises(MemoryBudgetError):
            planned(monkeypatch, device_memory=budget, batch=2 * found.batch, window=found.tiles.window)


def test_both_budgets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = planned(monkeypatch, thumbnail=64)
    budget = roomy.memory.bytes - 60 * MIB
    found = planned(monkeypatch, thumbnail=64, memory=budget, device_memory=2 * GIB)
    assert found.memory.device is not None
    assert found.memory.bytes <= budget
    assert found.memory.device.bytes <= 2 * GIB
    assert roomy.memory.device is not None
    assert roomy.memory.device.bytes > 2 * GIB


def test_the_smallest_budget_named_works_and_less_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryBudgetError, match=r"--device-memory \d+MiB") as caught:
        planned(monkeypatch, device_memory="64MiB")
    smallest = caught.value.smallest
    assert planned(monkeypatch, device_memory=smallest).device_room == smallest
    with pytest.raises(MemoryBudgetError):
        planned(monkeypatch, device_memory=smallest - MIB)


def test_what_is_free_decides_the_batch_and_never_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    full = planned(monkeypatch)
    half = planned(monkeypatch, free=full.memory.device.bytes - 1)  # type: ignore[union-attr]
    assert half.batch == 4
    assert half.in_flight == full.in_flight
    assert any("4 instead of 8 windows a call" in note for note in half.notes)
    least = planned(monkeypatch, free=700 * MIB)
    assert least.batch == 1
    assert least.tiles.window == full.tiles.window
    assert any("it may run out" in note for note in least.notes)
    # A batch that was asked for stays.
    assert planned(monkeypatch, free=700 * MIB, batch=6).batch == 6


def test_reduced_precision_holds_its_weights_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (on_device(planned(monkeypatch, precision=p))["network"] for p in ("float32", "bfloat16"))
    assert narrow == wide + wide // 2


@pytest.mark.parametrize("given", ["0", "much", 0])
def test_what_is_no_budget_is_refused(given: Any) -> None:
    with pytest.raises(InputError):
        RunOptions(device_memory=given)


def test_the_command_line_takes_the_budget(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(60, 70))
    done = CliRunner().invoke(
        app, ["plan", str(source), "--network", "identity", "--device", "cpu", "--device-memory", "8GiB"]
    )
    assert done.exit_code == 0, done.output
    assert "decides nothing" in done.output


def test_a_gpu_copies_the_widest_map_that_a_convolution_or_a_pad_reads() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReflectionPad2d(4), nn.Conv2d(5, 9, 9), nn.ReLU())
    assert layout_copy_bytes(layers, 8) == 5 * 4 * 72**2 / 64**2
    assert not any(layer._forward_pre_hooks for layer in layers)


# ---- what CUDA is asked, with answers that are made up


def test_a_limit_leaves_the_context_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, Any]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: asked.append((share, device))
    )
    cuda = torch.device("cuda")
    devices.limit_bytes(cuda, 8 * GIB)
    devices.limit_bytes(torch.device("cuda", 1), 100 * GIB)
    devices.limit_bytes(cuda, MIB)
    devices.limit_bytes(cuda, None)
    assert asked == [((8 * GIB - devices.CONTEXT) / (16 * GIB), 3), (1.0, 1), (0.0, 3), (1.0, 3)]
    assert devices.free_bytes(cuda) == 11 * GIB + devices.CONTEXT
    assert devices.peak_bytes(cuda) == 2 * GIB


def test_a_cpu_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mem_get_info", "set_per_process_memory_fraction", "empty_cache", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("a CPU has no such thing"))
    cpu = torch.device("cpu")
    assert devices.free_bytes(cpu) is None
    assert devices.peak_bytes(cpu) is None
    devices.limit_bytes(cpu, 1)
    devices.limit_bytes(cpu, None)
    devices.release_cache(cpu)


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(InputError, match="is no device"):
        devices.choose_device("toaster")

"""Convolutions of our own: what PyTorch computes, in one planned block of memory."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks import published
from tests.networks_support import noise, statistics_of
from tests.support import picture
from urst_tiles import collect_statistics, plan, stylize
from urst_tiles.engines import Piece, TorchEngine, make_engine, run_whole
from urst_tiles.engines.choosing import most_calls, why_not
from urst_tiles.engines.llvm import UntranslatedError, known_processor, machine
from urst_tiles.engines.llvm import convolution as convolution_module
from urst_tiles.engines.llvm.convolution import Winograd
from urst_tiles.engines.llvm.large import Nested
from urst_tiles.engines.llvm.layers import (
    Convolved,
    Doubled,
    Interleaved,
    Interpolated,
    Padded,
    Pooled,
    Scaled,
    Shuffled,
    Writing,
)
from urst_tiles.engines.llvm.maps import Padding
from urst_tiles.engines.llvm.rewriting import convolve
from urst_tiles.engines.llvm.schedule import Schedule
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.engines.llvm_engine import LLVMEngine, _Memory, schedule_of
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import METHODS, load_network, sample_network
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.graphs import flatten
from urst_tiles.networks.padding import round_up
from urst_tiles.networks.phases import Interleave
from urst_tiles.networks.styling import StyleImage, Styling
from urst_tiles.networks.untrained import untrained
from urst_tiles.sources.arrays import ArraySource

pytestmark = pytest.mark.skipif(known_processor() is None, reason="no vectors that programs are written for")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Padded(Padding(2, 1, 0, 3, "reflect")), nn.ReflectionPad2d((2, 1, 0, 3))),
        (Padded(Padding(2, 1, 0, 3, "replicate")), nn.ReplicationPad2d((2, 1, 0, 3))),
        (Padded(Padding(2, 1, 0, 3)), nn.ZeroPad2d((2, 1, 0, 3))),
        (Doubled(), nn.Upsample(scale_factor=2)),
        (Interpolated(), nn.Upsample(scale_factor=2, mode="bilinear")),
        (Pooled(), nn.MaxPool2d(2)),
        (Interleaved(), Interleave()),
        (Shuffled(), nn.PixelShuffle(2)),
    ],
)
def test_layers_that_write_are_pytorchs(ours: Writing, theirs: nn.Module) -> None:
    image = torch.randn(2, 12, 7, 8)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 2), nn.AvgPool2d(2)])
def test_other_pools_are_pytorchs(layer: nn.Module) -> None:
    net = flatten(nn.Sequential(nn.Conv2d(3, 5, 1), layer))
    assert isinstance(net, GraphModule)
    image = torch.randn(1, 3, 9, 12)
    wanted = net(image)
    convolve(net, 4, 1, Workshop(1))
    assert not any(isinstance(each, Pooled) for each in net.modules())
    torch.testing.assert_close(net(image), wanted)


@pytest.mark.parametrize("relu", [True, False])
def test_scaled_is_a_scale_and_a_shift(relu: bool) -> None:
    image, scale, shift = torch.randn(2, 5, 7, 8), torch.randn(5), torch.randn(5)
    wanted = image * scale[:, None, None] + shift[:, None, None]
    found = Scaled(scale, shift, relu=relu)(image)
    assert torch.allclose(found, wanted.relu() if relu else wanted, atol=1e-6)


def frozen_of(name: str) -> FrozenNetwork:
    network = sample_network(name)
    return network.freeze(collect_statistics(network, picture(96, 128)))


WIDE = {"johnson": lambda: untrained(width=32), "identity": lambda: load_network("identity")}


def wide(name: str) -> FrozenNetwork:
    """With channels enough for Winograd's way."""
    network = WIDE[name]()
    return network.freeze(statistics_of(network)) if name != "identity" else network.freeze(network.neutral_statistics)


@pytest.mark.parametrize("name", [*METHODS, "wide johnson"])
def test_maps_in_one_block_never_overwrite_each_other(name: str) -> None:
    frozen = wide("johnson") if name == "wide johnson" else frozen_of(name)
    schedule = schedule_of(frozen)
    least, stride = frozen.minimum, frozen.stride
    for count, height, width in ((1, least + stride, 2 * least), (2, 2 * least, least)):
        image = torch.rand(count, height, width, 3).permute(0, 3, 1, 2)
        planned = schedule.plan(count, height, width)
        memory = torch.full((planned.floats,), float("nan"))
        bound = schedule.bound(count, height, width, memory)
        for given in (image, 1.0 - image):  # what is bound runs what stands there then
            with torch.inference_mode():
                bound.image.copy_(given)
                found = bound.run()
                wanted = schedule._net(given)  # each map in memory of its own
            assert torch.equal(found, wanted)
            assert not torch.isnan(found).any()


@pytest.mark.parametrize("name", ["msgnet", "collaborative", "wct", "wide johnson"])
def test_what_runs_a_graph_of_ours_is_told_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = schedule_of(wide("johnson") if name == "wide johnson" else frozen_of(name))
    bound = schedule.bound(1, 64, 64, torch.empty(schedule.plan(1, 64, 64).floats))
    monkeypatch.setattr("torch.fx.Interpreter.run_node", None)
    bound.image.zero_()
    assert bound.run().shape == (1, 3, 64, 64)


def test_what_is_bound_goes_with_the_memory_that_is_too_small() -> None:
    schedule = schedule_of(frozen_of("johnson"))
    memory = _Memory()
    small = memory.bound(schedule, 1, 64, 64)
    assert memory.bound(schedule, 1, 64, 64) is small
    gone = weakref.ref(small.image.untyped_storage())
    del small
    large = memory.bound(schedule, 1, 128, 128)
    assert gone() is None
    assert memory.bound(schedule, 1, 128, 128) is large
    assert memory.bound(schedule, 1, 64, 64).image.untyped_storage()._cdata == large.image.untyped_storage()._cdata


def test_no_convolution_of_microast_is_pytorchs() -> None:
    network = METHODS["microast"].build(published.microast(), Styling((StyleImage(picture(64, 64), 1.0),)))
    net = schedule_of(network.freeze(statistics_of(network)))._net
    assert not [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def test_a_block_is_smaller_than_its_maps_together() -> None:
    schedule = schedule_of(wide("johnson"))
    planned = schedule.plan(1, 256, 256)
    every = sum(
        4 * 256 * 256 * depth // area for depth, area in ((32, 1), (64, 4), *[(128, 16)] * 11, (64, 4), (32, 1))
    )
    assert 2 * 4 * 32 * 256 * 256 * 0.6 < 4 * planned.floats < every / 2


def test_convolutions_take_in_what_stands_around_them() -> None:
    net = schedule_of(wide("johnson"))._net
    kinds = [type(net.get_submodule(str(node.target))) for node in net.graph.nodes if node.op == "call_module"]
    # No pad, sum, ReLU, interleaving or shuffle between.
    assert kinds == [Convolved] * 16
    assert not [node for node in net.graph.nodes if node.op == "call_function"]
    put = [layer.convolution for layer in net.modules() if isinstance(layer, Convolved)]
    assert sum(isinstance(each, Winograd) for each in put) == 12
    assert [isinstance(each, Nested) for each in put] == [True, *[False] * 14, True]


# ---- the engine


def windows(count: int, height: int, width: int, dtype: str = "uint8") -> Any:
    return np.stack([picture(height, width, dtype=dtype, seed=seed) for seed in range(count)])


def off(found: Any, wanted: Any) -> int:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return int(np.abs(found.astype(int) - wanted.astype(int)).max())


@pytest.mark.parametrize("name", [*METHODS, "wide johnson"])
def test_llvm_gives_pytorchs_pixels_to_a_level_at_any_size(name: str) -> None:
    frozen = wide("johnson") if name == "wide johnson" else frozen_of(name)
    engine, reference = LLVMEngine(frozen), TorchEngine(frozen, device="cpu")
    least, stride = frozen.minimum, frozen.stride
    for given_ in (windows(1, 8 * stride, 12 * stride), windows(3, least + 5, 2 * least + 3), windows(2, 5, 7)):
        wanted = run_whole(reference, given_)
        assert name == "identity" or int(wanted.max()) - int(wanted.min()) > 20  # a picture, not a plane
        assert off(run_whole(engine, given_), wanted) <= 1
    sixteen = windows(2, 41, 50, "uint16")
    # A thousandth of a level of 8 bits is 1/4 of one of 16.
    assert off(run_whole(engine, sixteen), run_whole(reference, sixteen)) <= 8


@pytest.mark.parametrize("name", [*METHODS, "wide johnson"])
def test_windows_inside_a_raster_are_pytorchs_and_take_no_more_memory(name: str) -> None:
    frozen = wide("johnson") if name == "wide johnson" else frozen_of(name)
    engine, reference = LLVMEngine(frozen), TorchEngine(frozen, device="cpu")
    halo = frozen.halo
    side = round_up(2 * halo + 24, frozen.stride)
    (window,) = windows(1, side, side + frozen.stride)
    kept = (slice(halo, side - halo), slice(halo + 3, side - halo))
    whole = run_whole(reference, window[None])[0]
    wanted = whole[:, *kept]

    def made(rims: list[int]) -> list[Any]:
        pieces = [Piece(window, np.empty_like(wanted), kept, rim) for rim in rims]
        taken: list[int] = []
        engine.run(pieces, lambda: taken.append(1))
        assert taken == [1]
        return [piece.place for piece in pieces]

    rims = [halo, 0, halo]
    together, alone = made(rims), [made([rim])[0] for rim in rims]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one, other)
        assert off(one, wanted) <= 1
    schedules = engine._schedule, engine._within()[1]
    over, inner = (each.plan(2, side, side + frozen.stride).nbytes for each in schedules)
    assert inner <= over
    if schedules[0] is not schedules[1]:
        kernels = [[each.ready()[1] for each in schedule._convolutions] for schedule in schedules]
        assert all(a is b for a, b in zip(*kernels, strict=True))


def test_which_networks_have_a_schedule_for_windows_inside() -> None:
    own = [name for name in METHODS if (made := LLVMEngine(frozen_of(name)))._within()[1] is not made._schedule]
    assert own == [name for name in METHODS if name != "identity"]


def test_llvm_gives_the_same_pixels_in_calls_at_the_same_time() -> None:
    frozen = wide("johnson")
    engine, reference = LLVMEngine(frozen, calls=2), LLVMEngine(frozen)
    given_ = [windows(1, 64 + 4 * number, 80) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:  # more than there are calls: the others wait
        found = list(pool.map(partial(run_whole, engine), given_))
    for one, wanted in zip(found, map(partial(run_whole, reference), given_), strict=True):
        assert np.array_equal(one, wanted)
    assert most_calls("llvm", 8) == 1


def test_identity_returns_every_level() -> None:
    engine = LLVMEngine(wide("identity"))
    for dtype, top in ((np.uint8, 256), (np.uint16, 65536)):
        given_: Any = np.resize(np.arange(top, dtype=dtype), (1, 150, 147, 3))
        assert np.array_equal(run_whole(engine, given_), given_.transpose(0, 3, 1, 2))


class Broken(nn.Module):
    """No number where it is bright, and too much elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.5, x * float("nan"), x * float("inf"))


class Branching(nn.Module):
    """Cannot be put into a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


def test_networks_that_are_no_graph_are_left_to_others() -> None:
    frozen = FrozenNetwork(Branching(), halo=0, stride=1, minimum=1)
    with pytest.raises(NetworkError, match="could be put into a graph; use --engine torch"):
        LLVMEngine(frozen)
    assert "could be put into a graph" in str(why_not(frozen, "llvm"))
    assert isinstance(make_engine(frozen, device="cpu"), TorchEngine) or "openvino" in make_engine(frozen).description


def test_what_is_no_number_is_grey() -> None:
    from torch.fx import symbolic_trace

    frozen = FrozenNetwork(symbolic_trace(Broken()), halo=0, stride=1, minimum=1)
    given_ = np.maximum(noise(16, 24), 1)[None]
    found = run_whole(LLVMEngine(frozen), given_)
    assert set(np.unique(found)) == {128, 255}
    assert np.array_equal(found, run_whole(TorchEngine(frozen, device="cpu"), given_))


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = wide("johnson")
    with pytest.raises(InputError, match="computes in float32, not bfloat16"):
        make_engine(frozen, engine="llvm", device="cpu", precision="bfloat16")

    def forbidden(*_: object) -> None:
        raise UntranslatedError("mmap: not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(convolution_module, "translated", forbidden)
        with pytest.raises(NetworkError, match=r"makes no programs here \(mmap: not permitted\); use --engine torch"):
            run_whole(LLVMEngine(frozen), windows(1, 64, 64))
        assert "makes no programs here" in str(why_not(frozen, "llvm"))
    monkeypatch.setattr(machine, "known_processor", lambda: None)
    with pytest.raises(InputError, match="a processor with AVX2 or NEON"):
        LLVMEngine(frozen)
    monkeypatch.setattr(machine, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"llvmlite is not installed here; .*urst-tiles\[llvm\]"):
        LLVMEngine(frozen)


def test_llvm_has_its_parts_in_the_sum_and_is_chosen() -> None:
    network = untrained(width=8)
    source = ArraySource(np.broadcast_to(noise(1, 1), (3000, 3000, 3)))
    options: dict[str, Any] = {"device": "cpu", "time_it": False}
    found = plan(source, network, **options)
    assert found.engine == "llvm"
    (shards,) = (phase for phase in found.memory.phases if phase.name == "shards")
    assert {"llvm", "kernels", "scratch", "activations"} <= {part.name for part in shards.parts}


def test_a_run_is_pytorchs_to_a_level(tmp_path: Path) -> None:
    import zarr

    options: dict[str, Any] = {"network": untrained(width=32), "window": 256, "thumbnail": 64, "device": "cpu"}
    source = ArraySource(picture(420, 500))
    reports = [stylize(source, tmp_path / f"{name}.zarr", engine=name, **options) for name in ("torch", "llvm")]
    assert reports[1].engine.startswith("llvmlite 0")
    found, wanted = (np.asarray(zarr.open_array(tmp_path / f"{name}.zarr" / "0")[:]) for name in ("llvm", "torch"))
    assert off(found, wanted) <= 1


def test_nothing_is_left_of_the_engines_of_a_plan_or_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, made = Schedule.__init__, list["weakref.ref[Schedule]"]()

    def seen(schedule: Schedule, *given: Any) -> None:
        begin(schedule, *given)
        made.append(weakref.ref(schedule))

    monkeypatch.setattr(Schedule, "__init__", seen)
    given: Any = {"source": picture(150, 160), "network": untrained(width=8), "thumbnail": 48, "engine": "llvm"}
    gc.disable()  # Python does not happen to look for them
    try:
        planned = plan(**given)
        assert planned.engine == "llvm"
        assert len(made) >= 3  # to plan with, to try whether it agrees, and how long it takes
        assert [each() for each in made if each() is not None] == []
        stylize(target=tmp_path / "o.zarr", **given)
        assert len(made) >= 6
        assert [each() for each in made if each() is not None] == []
    finally:
        gc.enable()

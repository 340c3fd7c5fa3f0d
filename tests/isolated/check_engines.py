"""Engines behind one seam: the same pixels from each, chosen where they can be, and said."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks_support import network_of, noise, statistics_of
from tests.support import picture
from urst_tiles import collect_statistics, plan, stylize
from urst_tiles.engines import Piece, TorchEngine, make_engine, run_whole
from urst_tiles.engines import choosing as choosing_module
from urst_tiles.engines.choosing import PAYS, suitable, why_not
from urst_tiles.engines.compiling import check_compiler
from urst_tiles.engines.llvm import Processor
from urst_tiles.engines.openvino import OpenVINOEngine, is_installed
from urst_tiles.errors import InputError, NetworkError, RunMismatchError, RunStopped
from urst_tiles.networks import load_network, sample_network
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.phases import Interleave
from urst_tiles.networks.portable import portable
from urst_tiles.networks.untrained import untrained
from urst_tiles.options import RunOptions
from urst_tiles.sources.arrays import ArraySource

needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed here")


@pytest.fixture
def without_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing_module, "known_processor", lambda: None)


def frozen_of(name: str) -> FrozenNetwork:
    network = sample_network(name)
    return network.freeze(collect_statistics(network, picture(96, 128)))


def windows(count: int, height: int, width: int, dtype: str = "uint8") -> Any:
    return np.stack([picture(height, width, dtype=dtype, seed=seed) for seed in range(count)])


def off(found: Any, wanted: Any) -> int:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return int(np.abs(found.astype(int) - wanted.astype(int)).max())


# ---- OpenVINO


@needs_openvino
@pytest.mark.parametrize("name", ["johnson", "adain", "wct", "msgnet", "microast"])
def test_openvino_gives_pytorchs_pixels_to_a_level_at_any_size(name: str) -> None:
    frozen = frozen_of(name)
    engine, reference = OpenVINOEngine(frozen), TorchEngine(frozen, device="cpu")
    least, stride = frozen.minimum, frozen.stride
    # whole strides; a number of windows, none of whose sides is; smaller than the network's own layers take
    for given in (windows(1, 8 * stride, 12 * stride), windows(3, least + 5, 2 * least + 3), windows(2, 5, 7)):
        wanted = run_whole(reference, given)
        assert int(wanted.max()) - int(wanted.min()) > 50  # a picture, not a plane
        assert off(run_whole(engine, given), wanted) <= 1


@needs_openvino
def test_openvino_gives_the_same_pixels_in_calls_at_the_same_time() -> None:
    frozen = frozen_of("johnson")
    engine, reference = OpenVINOEngine(frozen, calls=2), OpenVINOEngine(frozen)
    given = [windows(1, 64 + 4 * number, 80) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:  # more than there are requests: the others wait
        found = list(pool.map(partial(run_whole, engine), given))
    for one, wanted in zip(found, map(partial(run_whole, reference), given), strict=True):
        assert np.array_equal(one, wanted)


@needs_openvino
def test_openvino_takes_16_bits() -> None:
    frozen = frozen_of("johnson")
    given = windows(2, 41, 50, "uint16")
    # A thousandth of a level of 8 bits is 1/4 of one of 16.
    assert off(run_whole(OpenVINOEngine(frozen), given), run_whole(TorchEngine(frozen, device="cpu"), given)) <= 8


@needs_openvino
def test_identity_returns_every_level() -> None:
    network = load_network("identity")
    engine = OpenVINOEngine(network.freeze(network.neutral_statistics))
    for dtype, top in ((np.uint8, 256), (np.uint16, 65536)):
        given: Any = np.resize(np.arange(top, dtype=dtype), (1, 150, 147, 3))
        assert np.array_equal(run_whole(engine, given), given.transpose(0, 3, 1, 2))


class Broken(nn.Module):
    """No number where it is bright, and too much elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.5, x * float("nan"), x * float("inf"))


@needs_openvino
def test_what_is_no_number_is_grey_in_every_engine() -> None:
    frozen = FrozenNetwork(Broken(), halo=0, stride=1, minimum=1)
    given = np.maximum(noise(16, 24), 1)[None]
    found = run_whole(OpenVINOEngine(frozen), given)
    assert set(np.unique(found)) == {128, 255}
    assert np.array_equal(found, run_whole(TorchEngine(frozen, device="cpu"), given))


@needs_openvino
def test_openvino_computes_in_float32_and_on_as_many_threads_as_pytorch() -> None:
    engine = OpenVINOEngine(frozen_of("identity"))
    run_whole(engine, windows(1, 8, 8))
    (requests,) = engine._requests.values()
    compiled = requests.get().get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert engine.description.endswith(f"cpu, float32, {torch.get_num_threads()} threads")


class Sorted(nn.Module):
    """Something that OpenVINO's front end does not know."""

    def forward(self, x: Tensor) -> Tensor:
        order: Tensor = torch.linalg.eigvalsh(x @ x.transpose(2, 3))
        return x + 0 * order.sum()


@needs_openvino
@pytest.mark.usefixtures("without_llvm")
def test_an_operation_that_openvino_does_not_know_is_said_in_one_line() -> None:
    frozen = FrozenNetwork(Sorted(), halo=0, stride=1, minimum=1)
    with pytest.raises(NetworkError, match=r"OpenVINO does not take this network \(.*\); use --engine torch") as caught:
        run_whole(OpenVINOEngine(frozen), windows(1, 8, 8))
    assert "\n" not in str(caught.value)
    assert "OpenVINO does not take" in str(why_not(frozen, "openvino"))
    assert isinstance(make_engine(frozen, device="cpu"), TorchEngine)


def test_a_portable_copy_makes_the_same_picture_and_leaves_the_network_alone() -> None:
    network = untrained(width=4)
    frozen = network.freeze(statistics_of(network))
    image = torch.rand(2, 3, 24, 32)
    with torch.inference_mode():
        before = frozen.module(image)
        copied = portable(frozen.module)
        assert torch.allclose(copied(image), before, atol=1e-5)
        assert torch.equal(frozen.module(image), before)
    assert any(isinstance(layer, Interleave) for layer in frozen.module.modules())
    assert not any(isinstance(layer, Interleave) for layer in copied.modules())


# ---- choosing


def test_auto_is_what_is_faster_where_it_can_be_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing_module, "is_installed", lambda: True)
    monkeypatch.setattr(choosing_module, "known_processor", lambda: Processor("AVX2", 8, 12))
    assert suitable("auto", device="cpu") == ("llvm", "openvino", "torch")
    assert suitable("auto", device="cpu", pixels=PAYS - 1) == ("torch",)
    assert suitable("auto", device="cpu", precision="bfloat16") == ("torch",)
    monkeypatch.setattr(choosing_module, "choose_device", lambda _name: torch.device("cuda", 0))
    assert suitable("auto") == ("torch",)
    for engine, name in (("openvino", "OpenVINO"), ("llvm", "LLVM")):
        with pytest.raises(InputError, match=f"{name} runs on the CPU here, not on cuda"):
            suitable(engine, device="cuda")
    monkeypatch.setattr(choosing_module, "choose_device", lambda _name: torch.device("cpu"))
    monkeypatch.setattr(choosing_module, "is_installed", lambda: False)
    assert suitable("auto") == ("llvm", "torch")
    monkeypatch.setattr(choosing_module, "known_processor", lambda: None)
    assert suitable("auto") == ("torch",)


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urst_tiles.engines.openvino.is_installed", lambda: False)
    with pytest.raises(InputError, match=r"OpenVINO is not installed here; .*urst-tiles\[openvino\]"):
        make_engine(frozen_of("identity"), engine="openvino", device="cpu")
    monkeypatch.setattr("urst_tiles.engines.compiling.shutil.which", lambda _name: None)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
        make_engine(frozen_of("identity"), engine="compile", device="cpu")
    with pytest.raises(InputError, match="'tensorrt' is unknown"):
        make_engine(frozen_of("identity"), engine="tensorrt")
    with pytest.raises(InputError, match="engine 'tensorrt' is unknown"):
        RunOptions(engine="tensorrt")  # type: ignore[arg-type]


@needs_openvino
def test_openvino_has_no_float16() -> None:
    with pytest.raises(InputError, match="float32 or bfloat16, not float16"):
        suitable("openvino", device="cpu", precision="float16")


def test_lossy_precisions_are_never_chosen_by_themselves() -> None:
    assert RunOptions().precision == RunOptions(precision="auto").precision == "float32"
    assert RunOptions(engine="openvino").device == "cpu"
    assert RunOptions(engine="openvino", device="cuda").device == "cuda"


@needs_openvino
@pytest.mark.usefixtures("without_llvm")
@pytest.mark.parametrize("levels", [1, 2])
def test_openvino_that_is_off_by_more_than_a_level_is_not_used(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = OpenVINOEngine.run

    def off_by(self: OpenVINOEngine, pieces: Sequence[Piece]) -> None:
        exact(self, pieces)
        for piece in pieces:
            piece.place[:] = np.minimum(piece.place, 255 - levels) + levels

    monkeypatch.setattr(OpenVINOEngine, "run", off_by)
    network, source = load_network("identity"), ArraySource(np.broadcast_to(noise(1, 1), (3000, 3000, 3)))
    assert (why_not(network, "openvino") is None) == (levels == 1)
    found = plan(source, network, device="cpu")
    assert found.engine == ("openvino" if levels == 1 else "torch")
    untried = plan(source, network, device="cpu", time_it=False)
    assert untried.engine == "openvino"
    assert any("is to be tried" in note for note in untried.notes)
    said = "OpenVINO's pixels are up to 2 levels off PyTorch's with this network: another engine runs it"
    assert (said in found.notes) == (levels == 2)
    if levels == 2:
        with pytest.raises(InputError, match="up to 2 levels off"):
            plan(source, network, engine="openvino", time_it=False)


@needs_openvino
@pytest.mark.usefixtures("without_llvm")
def test_the_engine_has_its_parts_in_the_sum_and_gives_way_to_a_budget() -> None:
    network = untrained(width=8)
    source = ArraySource(np.broadcast_to(noise(1, 1), (3000, 3000, 3)))
    options: dict[str, Any] = {"device": "cpu", "time_it": False}
    plans = {name: plan(source, network, engine=name, **options) for name in ("openvino", "torch")}
    with_openvino, without = (plans[name].memory.bytes for name in ("openvino", "torch"))
    assert with_openvino > without
    parts = {part.name for part in plans["openvino"].memory.peak.parts}
    assert {"openvino", "weights", "places"} <= parts
    assert plan(source, network, memory=2 * with_openvino, **options).engine == "openvino"
    # Too little for OpenVINO, with one shard in flight too: the engine gives way before the window does.
    tight = plan(source, network, memory=without + 16 * 2**20, **options)
    assert tight.engine == "torch"
    assert tight.tiles.window == plans["torch"].tiles.window


# ---- runs


@needs_openvino
def test_a_run_says_its_engine_and_goes_on_with_no_other(tmp_path: Path) -> None:
    network = untrained(width=2)
    source = ArraySource(picture(700, 500))
    options: dict[str, Any] = {"network": network, "window": 168, "thumbnail": 64, "device": "cpu"}
    reference = stylize(source, tmp_path / "torch.zarr", **options)
    assert reference.engine.startswith("torch 2")
    asked = count()
    with pytest.raises(RunStopped):
        stylize(source, tmp_path / "out.zarr", engine="openvino", stop=lambda: next(asked) > 5, **options)
    with pytest.raises(RunMismatchError, match="engine: openvino → torch"):
        stylize(source, tmp_path / "out.zarr", engine="torch", **options)
    report = stylize(source, tmp_path / "out.zarr", engine="openvino", **options)
    assert report.engine.startswith("openvino 2")
    import zarr

    found, wanted = (np.asarray(zarr.open_array(tmp_path / name / "0")[:]) for name in ("out.zarr", "torch.zarr"))
    assert off(found, wanted) <= 1


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_threads_may_call_at_the_same_time(engine: str) -> None:
    frozen = frozen_of("johnson")
    made = make_engine(frozen, engine=engine, device="cpu")
    given = [windows(1, 40 + 4 * number, 48) for number in range(6)]
    wanted = [run_whole(made, each) for each in given]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(partial(run_whole, made), given))
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_torch_compile_gives_the_same_pixels() -> None:
    try:
        check_compiler(torch.device("cpu"))
    except InputError as error:
        pytest.skip(str(error))
    network = network_of(
        *(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3, 2), nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
        *(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.ReplicationPad2d(1), nn.Conv2d(4, 3, 3)),  # where PyTorch 2.13 fails unless told otherwise
    )
    frozen = network.freeze(statistics_of(network))
    engine = make_engine(frozen, engine="compile", device="cpu")
    assert engine.description.startswith("torch.compile 2")
    given = windows(2, 25, 34)
    wanted = run_whole(TorchEngine(frozen, device="cpu"), given)
    assert len(np.unique(wanted)) > 50  # a picture, not a plane
    assert off(run_whole(engine, given), wanted) <= 1

"""Convolutions of our own, whatever their way: what PyTorch computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from urst_tiles.engines.llvm import Processor, groups, known_processor, large
from urst_tiles.engines.llvm import convolution as convolution_module
from urst_tiles.engines.llvm.convolution import Convolution, Direct, Winograd, interleaves
from urst_tiles.engines.llvm.groups import Grouped, fills_vectors
from urst_tiles.engines.llvm.large import Nested, gains_by_parts
from urst_tiles.engines.llvm.maps import Padding
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.networks.phases import Interleave, phase_kernels

pytestmark = pytest.mark.skipif(known_processor() is None, reason="no vectors that programs are written for")

MODES = ("zeros", "reflect", "replicate")


@pytest.fixture(params=["as here", Processor("AVX2", 8, 12), Processor("NEON", 4, 24)], ids=str)
def any_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for other vectors than this processor's run here too, LLVM sees to that."""
    if isinstance(request.param, Processor):
        for module in (convolution_module, groups, large):
            monkeypatch.setattr(module, "processor", lambda: request.param)


def map_of(random: np.random.Generator, *shape: int) -> Any:
    return random.normal(size=shape).astype(np.float32)


def middle_of(random: np.random.Generator, like: torch.Size, depth: int) -> Any:
    """A map, or what is in the middle of a larger one."""
    around, (height, width) = int(random.integers(3)), like[-2:]
    return map_of(random, height + 2 * around, width + 2 * around, depth)[around:][:height, around:][:, :width]


def run(convolution: Convolution, image: Any, threads: int = 1, residual: Any = None) -> Any:
    sides = convolution.sides(*image.shape[:2])
    result = np.full((*sides, convolution.depth), np.nan, np.float32)
    convolution.run(image, result, Workshop(threads), residual)
    return result


def first(image: Any) -> Tensor:
    """(H, W, C) → (1, C, H, W), float64."""
    return torch.from_numpy(image).double().permute(2, 0, 1)[None]


def last(image: Tensor) -> Any:
    return image[0].permute(1, 2, 0).numpy()


def padded(image: Tensor, padding: Padding) -> Tensor:
    widths = (padding.left, padding.right, padding.top, padding.bottom)
    return functional.pad(image, widths, mode="constant" if padding.mode == "zeros" else padding.mode)


paddings = st.builds(
    Padding,
    left=st.integers(0, 2),
    right=st.integers(0, 2),
    top=st.integers(0, 2),
    bottom=st.integers(0, 2),
    mode=st.sampled_from(MODES),
)
cases = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# ---- convolutions


@pytest.mark.usefixtures("any_processor")
@cases
@given(
    channels=st.sampled_from([(32, 32), (16, 48), (64, 64), (160, 32)]),
    sides=st.tuples(st.integers(3, 23), st.integers(3, 23)),
    padding=paddings,
    margin=paddings,
    relu=st.booleans(),
    adds=st.booleans(),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_winograds_is_the_convolution(
    channels: tuple[int, int],
    sides: tuple[int, int],
    padding: Padding,
    margin: Padding,
    relu: bool,
    adds: bool,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    image, weight = map_of(random, *sides, inputs), map_of(random, outputs, inputs, 3, 3) / 3 / inputs**0.5
    bias = map_of(random, outputs)
    convolution = Winograd(weight, bias, padding, relu=relu)
    wanted = functional.conv2d(padded(first(image), padding), first_weight(weight), first_bias(bias))
    if min(wanted.shape[-2:]) < 3:  # no room for the margin
        return
    residual = middle_of(random, wanted.shape, outputs) if adds else None
    if residual is not None:
        wanted = wanted + first(residual)
    if relu:
        wanted = wanted.relu()
    convolution.margin = margin
    found = run(convolution, image, threads, residual)
    assert found == pytest.approx(last(padded(wanted, margin)), abs=5e-5)


def first_weight(weight: Any) -> Tensor:
    return torch.from_numpy(weight).double()


first_bias = first_weight


@pytest.mark.usefixtures("any_processor")
@pytest.mark.parametrize("mode", ["replicate", "zeros"])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (11, 5), (17, 18)])
def test_phases_are_put_in_their_places(mode: Any, height: int, width: int) -> None:
    random = np.random.default_rng(0)
    image, bias = map_of(random, height, width, 32), map_of(random, 16)
    weight = phase_kernels(torch.from_numpy(map_of(random, 16, 32, 3, 3) / 17)).numpy()
    convolution = Winograd(weight, np.tile(bias, 4), Padding(1, 1, 1, 1, mode), relu=True, phases=4)
    convolution.margin = Padding(3, 1, 2, 0, "reflect")
    around = padded(first(image), Padding(1, 1, 1, 1, mode))
    phases = functional.conv2d(around, first_weight(weight), first_bias(np.tile(bias, 4))).relu()
    wanted = padded(Interleave()(phases), convolution.margin)
    assert wanted.shape[-2:] == (2 * height + 2, 2 * width + 4)
    assert run(convolution, image) == pytest.approx(last(wanted), abs=5e-5)


@pytest.mark.usefixtures("any_processor")
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("depth", "height", "width"), [(16, 4, 6), (32, 11, 5), (16, 17, 39)])
def test_direct_puts_phases_in_their_places(depth: int, height: int, width: int, threads: int, relu: bool) -> None:
    random = np.random.default_rng(0)
    image, bias = map_of(random, height, width, 5), map_of(random, depth)
    weight = phase_kernels(torch.from_numpy(map_of(random, depth, 5, 3, 3) / 7)).numpy()
    assert interleaves(4 * depth)
    convolution = Direct(weight, np.tile(bias, 4), (1, 1), relu=relu, phases=4)
    convolution.margin = Padding(3, 1, 2, 0, "reflect")
    phases = functional.conv2d(first(image), first_weight(weight), first_bias(np.tile(bias, 4)))
    wanted = padded(Interleave()(phases.relu() if relu else phases), convolution.margin)
    assert wanted.shape[-2:] == (2 * height - 2, 2 * width)
    assert run(convolution, image, threads) == pytest.approx(last(wanted), abs=5e-5)


def test_phases_that_fill_no_vectors_are_interleaved_by_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_module, "processor", lambda: Processor("AVX-512", 16, 24))
    assert interleaves(64)
    assert not interleaves(32)


@pytest.mark.usefixtures("any_processor")
@pytest.mark.parametrize("relu", [True, False])
def test_the_largest_of_each_two_by_two_is_written(relu: bool) -> None:
    random = np.random.default_rng(1)
    image, weight, bias = map_of(random, 10, 22, 32), map_of(random, 48, 32, 3, 3) / 17, map_of(random, 48)
    convolution = Winograd(weight, bias, Padding(1, 1, 1, 1, "reflect"), relu=relu, pooled=True)
    around = padded(first(image), Padding(1, 1, 1, 1, "reflect"))
    wanted = functional.conv2d(around, first_weight(weight), first_bias(bias))
    wanted = functional.max_pool2d(wanted.relu() if relu else wanted, 2)
    assert run(convolution, image) == pytest.approx(last(wanted), abs=5e-5)


@pytest.mark.usefixtures("any_processor")
@cases
@given(
    channels=st.sampled_from([(3, 16), (5, 12), (16, 3), (32, 40), (7, 70)]),
    kernel=st.sampled_from([(1, 1), (3, 3), (4, 2), (9, 9)]),
    step=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    sides=st.tuples(st.integers(9, 40), st.integers(9, 70)),
    margin=paddings,
    relu=st.booleans(),
    adds=st.booleans(),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_direct_is_the_convolution(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    step: tuple[int, int],
    sides: tuple[int, int],
    margin: Padding,
    relu: bool,
    adds: bool,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    image, bias = map_of(random, *sides, inputs), map_of(random, outputs)
    weight = map_of(random, outputs, inputs, *kernel) / (inputs * kernel[0] * kernel[1]) ** 0.5
    wanted = functional.conv2d(first(image), first_weight(weight), first_bias(bias), stride=step)
    if min(wanted.shape[-2:]) < 3:
        return
    convolution = Direct(weight, bias, step, relu=relu, adds=adds)
    convolution.margin = margin
    residual = middle_of(random, wanted.shape, outputs) if adds else None
    if residual is not None:
        wanted = wanted + first(residual)
    wanted = padded(wanted.relu() if relu else wanted, margin)
    assert run(convolution, image, threads, residual) == pytest.approx(last(wanted), abs=5e-5)


@pytest.mark.usefixtures("any_processor")
@cases
@given(
    channels=st.sampled_from([(3, 16), (16, 3), (1, 48), (48, 1), (4, 32), (32, 4), (64, 3), (2, 64)]),
    taps=st.integers(5, 9),
    sides=st.tuples(st.integers(9, 40), st.integers(9, 230)),
    padding=paddings,
    margin=paddings,
    relu=st.booleans(),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_in_parts_it_is_the_convolution(
    channels: tuple[int, int],
    taps: int,
    sides: tuple[int, int],
    padding: Padding,
    margin: Padding,
    relu: bool,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    image, bias = map_of(random, *sides, inputs), map_of(random, outputs)
    weight = map_of(random, outputs, inputs, taps, taps) / taps / inputs**0.5
    assert gains_by_parts(inputs, outputs, taps)
    convolution = Nested(weight, bias, padding, relu=relu)
    wanted = functional.conv2d(padded(first(image), padding), first_weight(weight), first_bias(bias))
    if min(wanted.shape[-2:]) < 3:  # no room for the margin
        return
    convolution.margin = margin
    found = run(convolution, image, threads)
    assert found == pytest.approx(last(padded(wanted.relu() if relu else wanted, margin)), abs=5e-5)


@pytest.mark.usefixtures("any_processor")
@cases
@given(
    channels=st.sampled_from([(16, 32, 16), (32, 64, 32), (64, 32, 32), (32, 16, 16), (48, 48, 48), (96, 96, 48)]),
    kernel=st.sampled_from([(3, 3), (1, 3), (4, 2), (5, 5)]),
    step=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    sides=st.tuples(st.integers(6, 20), st.integers(6, 20)),
    padding=paddings,
    margin=paddings,
    relu=st.booleans(),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_in_groups_it_is_the_convolution(
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    step: tuple[int, int],
    sides: tuple[int, int],
    padding: Padding,
    margin: Padding,
    relu: bool,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs, groups = channels
    assert fills_vectors(nn.Conv2d(inputs, outputs, kernel, groups=groups))
    image, bias = map_of(random, *sides, inputs), map_of(random, outputs)
    weight = map_of(random, outputs, inputs // groups, *kernel) / (kernel[0] * kernel[1]) ** 0.5
    convolution = Grouped(weight, bias, groups, step, padding, relu=relu)
    around = padded(first(image), padding)
    wanted = functional.conv2d(around, first_weight(weight), first_bias(bias), stride=step, groups=groups)
    if min(wanted.shape[-2:]) < 3:
        return
    convolution.margin = margin
    found = run(convolution, image, threads)
    assert found == pytest.approx(last(padded(wanted.relu() if relu else wanted, margin)), abs=5e-5)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(64, 64, 3, groups=16), nn.Conv2d(32, 32, 3)], ids=str
)
def test_what_fills_no_vectors_is_left(layer: nn.Conv2d) -> None:
    assert not fills_vectors(layer)


def test_of_large_kernels_those_are_in_parts_that_gain() -> None:
    assert gains_by_parts(3, 16, 9)
    assert not gains_by_parts(3, 16, 3)  # Winograd's own way, or as it is defined
    assert not gains_by_parts(3, 24, 9)  # half a vector
    assert not gains_by_parts(32, 32, 9)
    assert not gains_by_parts(3, 256, 7)


@pytest.mark.parametrize("pooled", [True, False])
def test_what_is_no_number_stays_so(pooled: bool) -> None:
    image = np.zeros((12, 12, 32), np.float32)
    image[6, 6] = np.nan
    weight, bias = np.ones((32, 32, 3, 3), np.float32), np.zeros(32, np.float32)
    found = run(Winograd(weight, bias, Padding(1, 1, 1, 1), relu=True, pooled=pooled), image)
    assert np.isnan(found[3 if pooled else 6, 3 if pooled else 6]).all()
    for few in ((3, 32), (32, 3)):
        wide = np.ones((few[1], few[0], 9, 9), np.float32)
        some = np.ascontiguousarray(image[..., : few[0]])
        found = run(Nested(wide, bias[: few[1]], Padding(4, 4, 4, 4), relu=True), some)
        assert np.isnan(found[2:11, 2:11]).all()
    found = run(Direct(weight, bias, (1, 1), relu=True), image)
    assert np.isnan(found[5, 5]).all()
    assert not np.isnan(found[0, 0]).any()


def test_a_map_of_another_kind_is_refused() -> None:
    convolution = Direct(np.ones((4, 3, 1, 1), np.float32), np.zeros(4, np.float32), (1, 1), relu=False)
    good: Any = np.zeros((5, 6, 3), np.float32)
    result = np.zeros((5, 6, 4), np.float32)
    for image, target in (
        (good[..., :2], result),
        (good.astype(np.float64), result),
        (good, result[:4]),
        (good[:, ::-1], result),
    ):
        with pytest.raises(ValueError, match=r"a map of .* was expected"):
            convolution.run(image, target, Workshop(1))


def test_the_first_error_of_several_threads_is_raised() -> None:
    done = []

    def work(begin: int, end: int) -> None:
        if begin == 0:
            raise KeyError(begin)
        done.append((begin, end))

    with pytest.raises(KeyError):
        Workshop(3).share(work, 10, 2)
    assert sorted(done) == [(2, 6), (6, 10)]


def test_convolutions_that_compute_the_same_share_their_kernels() -> None:
    random = np.random.default_rng(5)
    weight, bias = map_of(random, 32, 32, 3, 3), map_of(random, 32)
    one = Winograd(weight, bias, Padding(1, 1, 1, 1), relu=True)
    two, other = Winograd(weight.copy(), bias, Padding(), relu=True), Winograd(2 * weight, bias, Padding(), relu=True)
    assert two.share(one)
    assert not other.share(one)
    assert not Direct(weight, bias, (1, 1), relu=True).share(one)
    assert two.ready()[1] is one.ready()[1]
    image = map_of(random, 12, 14, 32)
    wanted = functional.conv2d(first(image), torch.from_numpy(weight).double(), torch.from_numpy(bias).double()).relu()
    assert run(two, image) == pytest.approx(last(wanted), abs=5e-4)


def test_a_residual_of_another_shape_is_refused() -> None:
    random = np.random.default_rng(6)
    convolution = Direct(map_of(random, 4, 4, 1, 1), map_of(random, 4), (1, 1), relu=False, adds=True)
    with pytest.raises(ValueError, match="of a map was expected"):
        run(convolution, map_of(random, 5, 6, 4), residual=map_of(random, 5, 7, 4))
    with pytest.raises(ValueError, match="of a map was expected"):
        run(convolution, map_of(random, 5, 6, 4), residual=map_of(random, 5, 6, 8)[..., ::2])

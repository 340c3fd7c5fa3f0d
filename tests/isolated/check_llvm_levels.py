"""Levels that become a map, and a map that becomes levels: what NumPy and PyTorch make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.networks_support import statistics_of
from urst_tiles.engines import Piece, TorchEngine, run_whole
from urst_tiles.engines.llvm import Processor, known_processor
from urst_tiles.engines.llvm import levels as levels_module
from urst_tiles.engines.llvm.levels import Levels
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.engines.llvm_engine import LLVMEngine
from urst_tiles.networks.untrained import untrained

pytestmark = pytest.mark.skipif(known_processor() is None, reason="no vectors that programs are written for")

several = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sides = st.integers(1, 40)
types = st.sampled_from(["uint8", "uint16"])


@pytest.fixture(params=["as here", Processor("AVX2", 8, 12), Processor("NEON", 4, 24)], ids=str)
def any_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for other vectors than this processor's run here too, LLVM sees to that."""
    if isinstance(request.param, Processor):
        monkeypatch.setattr(levels_module, "processor", lambda: request.param)


def levels_of(seed: int, dtype: str, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@given(sides, sides, types, st.sampled_from(["whole", "cut", "alpha", "grey"]), st.integers(1, 2))
@several
@pytest.mark.usefixtures("any_processor")
def test_levels_are_divided_whatever_their_layout(height: int, width: int, dtype: str, kind: str, threads: int) -> None:
    given_ = {
        "whole": levels_of(1, dtype, height, width, 3),
        "cut": levels_of(1, dtype, height + 2, width + 3, 3)[1:-1, 2:-1],
        "alpha": levels_of(1, dtype, height, width, 4)[..., :3],
        "grey": np.broadcast_to(levels_of(1, dtype, height, width, 1), (height, width, 3)),
    }[kind]
    whole = np.full((height + 1, width + 2, 3), 7, np.float32)
    Levels(Workshop(threads)).read(given_, whole[:height, :width])
    assert np.array_equal(whole[:height, :width], given_.astype(np.float32) / np.float32(np.iinfo(dtype).max))
    assert (whole[height:] == 7).all()
    assert (whole[:, width:] == 7).all()


@given(sides, sides, types, st.integers(1, 2))
@several
@pytest.mark.usefixtures("any_processor")
def test_what_is_kept_is_rounded_and_put_in_planes_and_nothing_beside_it_is_touched(
    height: int, width: int, dtype: str, threads: int
) -> None:
    top = np.float32(np.iinfo(dtype).max)
    random = np.random.default_rng(height * 41 + width)
    halves = (random.integers(0, int(top), (height, width + 3, 3)) + np.float32(0.5)) / top
    picture = random.choice(np.array([-1, -0.0, 1, 2, np.inf, -np.inf, np.nan], np.float32), halves.shape)
    picture = np.where(random.random(halves.shape) < 0.5, halves, picture).astype(np.float32)
    kept, whole = picture[:, 2:-1], np.full((3, height + 2, width + 4), 9, dtype)
    Levels(Workshop(threads)).write(kept, whole[:, 1:-1, 3:-1])
    known = np.where(np.isnan(kept), np.float32(0.5), np.clip(kept, 0, 1))
    wanted = np.full_like(whole, 9)
    wanted[:, 1:-1, 3:-1] = np.rint(known * top).astype(dtype).transpose(2, 0, 1)
    assert np.array_equal(whole, wanted)


def test_a_place_that_does_not_fit_is_refused() -> None:
    levels, picture = Levels(Workshop(1)), np.zeros((8, 20, 3), np.float32)
    for place in (np.zeros((3, 8, 19), np.uint8), np.zeros((8, 20, 3), np.uint8).transpose(2, 0, 1)):
        with pytest.raises(ValueError, match="3 x 8 x 20"):
            levels.write(picture, place)


def test_an_engine_puts_what_is_kept_of_windows_of_any_size_into_its_place() -> None:
    network = untrained(width=4, seed=3)
    frozen = network.freeze(statistics_of(network))
    window = levels_of(5, "uint8", 2, 45, 58, 3)
    whole = np.zeros((3, 60, 90), np.uint8)
    crops = [(slice(3, 45), slice(0, 50)), (slice(0, 9), slice(20, 58))]
    places = [whole[:, 2:44, 5:55], whole[:, 50:59, 50:88]]
    taken = list[int]()
    pieces = [Piece(*each) for each in zip(window, places, crops, strict=True)]
    LLVMEngine(frozen).run(pieces, lambda: taken.append(1))
    wanted = run_whole(TorchEngine(frozen, device="cpu"), window).astype(int)
    assert taken == [1]
    for place, crop, each in zip(places, crops, wanted, strict=True):
        assert np.abs(place - each[:, *crop]).max() <= 1
    for place in places:
        place[:] = 0
    assert not whole.any()

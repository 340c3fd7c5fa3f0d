"""Pictures of 16 bits through PyTorch: no bit is lost to a type, and none more than must be to half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks_support import network_of, statistics_of
from tests.support import picture
from urst_tiles.engines import TorchEngine, run_whole
from urst_tiles.engines.base import Piece
from urst_tiles.engines.cuda import kept_levels
from urst_tiles.networks import load_network
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.untrained import untrained


def windows(count: int, height: int, width: int, dtype: str) -> Any:
    return np.stack([picture(height, width, dtype=dtype, seed=seed) for seed in range(count)])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_stay_16_bits_in_half_precision(precision: Any) -> None:
    network = untrained(width=4)
    frozen = network.freeze(statistics_of(network))
    given = windows(2, 96, 96, "uint16")
    wanted = run_whole(TorchEngine(frozen, device="cpu"), given)
    found = run_whole(TorchEngine(frozen, device="cpu", precision=precision), given)
    assert found.dtype == np.uint16
    assert len(np.unique(found)) > 0.9 * len(np.unique(wanted))
    # No more than half precision is off by: the same network, not another one.
    assert np.abs(found.astype(int) - wanted).mean() < 0.02 * 65535


def test_8_bits_are_computed_in_half_precision_to_the_end() -> None:
    one = network_of(nn.Conv2d(3, 3, 3, padding=1))
    engine = TorchEngine(one.freeze(one.neutral_statistics), device="cpu", precision="float16")
    seen: list[torch.dtype] = []
    for depth in ("uint8", "uint16"):
        network = engine._network(deep=depth == "uint16", inside=False)
        handle = network.register_forward_hook(lambda _module, _given, result: seen.append(result.dtype))
        run_whole(engine, windows(1, 16, 16, depth))
        handle.remove()
    assert seen == [torch.float16, torch.float32]


def test_the_deeper_network_has_the_same_weights() -> None:
    network = untrained(width=2)
    engine = TorchEngine(network.freeze(statistics_of(network)), device="cpu", precision="bfloat16")
    kinds = [(deep, inside) for deep in (False, True) for inside in (False, True)]
    networks = [engine._network(deep=deep, inside=inside) for deep, inside in kinds]
    assert len({id(each) for each in networks}) == 4
    assert len({frozenset(id(weight) for weight in each.parameters()) for each in networks}) == 1


class Rounded(nn.Module):
    """No graph: it looks at its input's values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.mean()) < 2 else -x


def test_a_network_that_is_no_graph_runs_in_half_precision_too() -> None:
    engine = TorchEngine(FrozenNetwork(Rounded(), halo=0, stride=1, minimum=1), device="cpu", precision="bfloat16")
    given = windows(1, 8, 8, "uint16")
    assert np.array_equal(run_whole(engine, given), given.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_levels_leave_the_device_as_they_came(dtype: str) -> None:
    """Four bytes for each of 16 bits would cross the bus."""
    network = load_network("identity")
    engine = TorchEngine(network.freeze(network.neutral_statistics), device="cpu")
    given: Any = np.resize(np.arange(np.iinfo(dtype).max + 1, dtype=dtype), (1, 150, 147, 3))
    levels = torch.from_numpy(given)
    with torch.inference_mode():
        found = kept_levels(engine._kept(levels, [Piece(given[0], given[0])]), levels)
    assert found.dtype == getattr(torch, dtype)
    assert np.array_equal(found.numpy(), given.transpose(0, 3, 1, 2).ravel())

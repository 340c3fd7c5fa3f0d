"""What a run leaves in its process when it has ended: nothing that adds up with the next one's, as in a notebook or a
server that makes one picture after the other."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch.fx.graph_module

from tests.support import picture
from urst_tiles import plan, stylize
from urst_tiles.errors import InputError
from urst_tiles.networks.tracing import capture
from urst_tiles.networks.untrained import untrained

PICTURE = picture(120, 160)


def held(*kinds: str) -> list[int]:
    """How many objects of these types are alive, and texts of graphs that torch has written as Python."""
    gc.collect()
    names = Counter(type(each).__name__ for each in gc.get_objects())
    loader: Any = torch.fx.graph_module._loader
    return [*(names[kind] for kind in kinds), len(loader.eval_cache)]


def no_more(now: list[int], before: list[int]) -> bool:
    """Fewer may be alive: of other tests something may have gone meanwhile."""
    return all(new <= old for new, old in zip(now, before, strict=True))


RECORDED = ("FakeTensorMode", "ShapeEnv", "Joined", "GraphModuleImpl", "GraphModule")
SERVED = ("Scheduler", "Worker", "Nanny", "Client")


@pytest.mark.parametrize("workers", [None, 1])
def test_of_a_run_nothing_stays(tmp_path: Path, workers: int | None) -> None:
    network = untrained(width=4, seed=1)
    stylize(PICTURE, tmp_path / "a.zarr", network=network, window=232, thumbnail=64, workers=workers)
    before = held(*RECORDED, *SERVED)
    stylize(PICTURE, tmp_path / "b.zarr", network=network, window=232, thumbnail=64, workers=workers)
    assert no_more(held(*RECORDED, *SERVED), before)


def test_nor_of_one_that_failed() -> None:
    network = untrained(width=4, seed=1)
    plan(PICTURE, network, time_it=False)
    before = held(*RECORDED)
    for _ in range(2):
        with pytest.raises(InputError):
            plan(PICTURE, network, window=50, time_it=False)
    assert no_more(held(*RECORDED), before)


def test_nor_of_a_recording() -> None:
    network = untrained(width=4, seed=1)
    frozen = network.freeze(network.neutral_statistics)
    before = held(*RECORDED)
    found = capture(frozen.module, 64)
    assert no_more(held(*RECORDED), before)
    assert any(node.op == "call_function" for node in found.graph.nodes)


@pytest.mark.parametrize("engine", ["llvm", "openvino"])
def test_nor_of_an_engine(tmp_path: Path, engine: Any) -> None:
    pytest.importorskip({"llvm": "llvmlite", "openvino": "openvino"}[engine])
    network = untrained(width=4, seed=1)
    stylize(PICTURE, tmp_path / "a.zarr", network=network, window=232, thumbnail=64, engine=engine)
    before = held(*RECORDED)
    stylize(PICTURE, tmp_path / "b.zarr", network=network, window=232, thumbnail=64, engine=engine)
    assert no_more(held(*RECORDED), before)

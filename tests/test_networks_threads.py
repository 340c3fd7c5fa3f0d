"""torch patches nn.Module for the whole process while it traces: networks that other threads run or trace meanwhile are
none the wiser."""

from __future__ import annotations

import copy
import operator
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Tracer
from torch.nn import functional

from urst_tiles.networks.graphs import flatten
from urst_tiles.networks.joined import Joined
from urst_tiles.networks.tracing import capture


class Block(nn.Module):
    """Layers in layers, with a weight that is read as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.weight = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.inner(image) * self.weight
        return result


def networks(count: int) -> list[nn.Sequential]:
    torch.manual_seed(0)
    return [nn.Sequential(*(Block() for _ in range(12))) for _ in range(count)]


def test_a_network_that_runs_is_not_traced_by_another_thread() -> None:
    (network,) = networks(1)
    image, done = torch.rand(1, 3, 8, 8), Event()
    with torch.no_grad():
        expected = network(image)

    def run() -> int:
        times = 0
        with torch.no_grad():
            while not done.is_set() or not times:
                torch.testing.assert_close(network(image), expected, rtol=0, atol=0)
                times += 1
        return times

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            for _ in range(40):
                # the very weights that are being used
                joined = flatten(network)
                assert sum(isinstance(layer, nn.Conv2d) for layer in joined.modules()) == 24
            capture(network, 64)
        finally:
            done.set()
        assert running.result() > 1


def test_other_threads_compute_as_ever_while_a_network_is_recorded() -> None:
    seen = []

    class Looking(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append([backend.enabled for backend in (torch.backends.mkldnn, torch.backends.cudnn)])
            return functional.relu(image)

    before = [torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled]
    capture(Looking(), 64)
    assert seen == [before]
    assert before[1]
    assert [torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled] == before
    with torch.backends.mkldnn.flags(enabled=False):
        assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled == before[0]


def test_a_joined_network_is_read_back_as_it_was_without_being_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Various(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.norm = Block(), nn.BatchNorm2d(3)
            self.register_buffer("shift", torch.rand(1, 3, 1, 1))

        def forward(self, image: Tensor) -> Tensor:
            a, b = torch.split(self.block(image), [1, 2], dim=1)
            both = torch.cat([b, a * 2 + 1], dim=1).clamp(min=0.1)
            pooled = functional.max_pool2d(both, 2, stride=1)
            result: Tensor = operator.add(self.norm(pooled), self.shift)[..., 1:, :-1]
            return result

    joined = flatten(Various().eval())
    assert isinstance(joined, Joined)
    packed = pickle.dumps(joined)
    monkeypatch.setattr(Tracer, "trace", None)
    found = pickle.loads(packed)
    assert isinstance(found, Joined)
    assert not found.training
    assert [(node.op, node.name, str(node.args)) for node in found.graph.nodes] == [
        (node.op, node.name, str(node.args)) for node in joined.graph.nodes
    ]
    image = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(found(image), joined(image), rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(copy.deepcopy(found)))
    assert again.state_dict().keys() == joined.state_dict().keys()


def test_networks_are_traced_by_many_threads() -> None:
    given, image = networks(4), torch.rand(1, 3, 8, 8)

    def trace(network: nn.Sequential) -> Tensor:
        for _ in range(10):
            joined = flatten(network)
        assert len([node for node in capture(network, 64).graph.nodes if "conv2d" in node.name]) == 24
        with torch.no_grad():
            found: Tensor = joined(image)
        return found

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(trace, given))
    with torch.no_grad():
        for network, result in zip(given, found, strict=True):
            torch.testing.assert_close(result, network(image), rtol=0, atol=0)

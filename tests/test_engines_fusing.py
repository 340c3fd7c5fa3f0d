"""ReLUs inside convolutions: the same picture where a device does so, and the network as it is where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support import picture
from urst_tiles.engines import TorchEngine, run_whole
from urst_tiles.engines.fusing import fused, fused_where_it_agrees
from urst_tiles.networks import sample_network
from urst_tiles.networks.base import FrozenNetwork

CPU = torch.device("cpu")


def in_one(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """Stands for cuDNN's operation."""
    return functional.conv2d(x, weight, bias, *rest).relu()


def frozen_of(name: str) -> FrozenNetwork:
    network = sample_network(name)
    return network.freeze(network.neutral_statistics)


def relus(network: nn.Module) -> int:
    net: Any = network.module
    return sum("relu" in str(node.target) for node in net.graph.nodes)


@pytest.mark.parametrize("name", ["johnson", "adain", "microast", "msgnet", "wct"])
def test_joined_they_make_the_same_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", in_one)
    frozen = frozen_of(name)
    before = relus(frozen)
    joined = fused(frozen)
    assert relus(joined) < before == relus(frozen)
    assert {id(weight) for weight in joined.parameters()} == {id(weight) for weight in frozen.parameters()}
    given = torch.rand(1, 3, frozen.minimum + frozen.stride, frozen.minimum, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(joined(given), frozen(given))


def test_what_has_no_relus_is_itself() -> None:
    frozen = frozen_of("identity")
    assert fused(frozen) is frozen
    assert fused_where_it_agrees(frozen, CPU) is frozen


def test_a_device_that_does_so_and_agrees_has_them_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", in_one)
    frozen = frozen_of("johnson")
    with torch.inference_mode():
        assert relus(fused_where_it_agrees(frozen, CPU)) == 0


def refuses(*_: Any) -> Tensor:
    raise RuntimeError("unable to find an engine to execute this computation")


def reads_what_is_there(*given: Any) -> Tensor:
    return in_one(*given) * float("nan")


def leaves_the_bias_out(x: Tensor, weight: Tensor, _bias: Tensor, *rest: Any) -> Tensor:
    return in_one(x, weight, None, *rest)


@pytest.mark.parametrize("kernel", [refuses, reads_what_is_there, leaves_the_bias_out])
def test_a_device_that_does_not_or_does_something_else_keeps_them_apart(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", kernel)
    frozen = frozen_of("johnson")
    with torch.inference_mode(), caplog.at_level("INFO", "urst_tiles"):
        assert fused_where_it_agrees(frozen, CPU) is frozen
    assert "biases and ReLUs stay by themselves" in caplog.text


def test_a_device_without_memory_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", is_full)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        fused_where_it_agrees(frozen_of("johnson"), CPU)


def test_a_cpu_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_relu", refuses)
    frozen = frozen_of("johnson")
    engine = TorchEngine(frozen, device="cpu")
    assert run_whole(engine, np.stack([picture(64, 80)])).shape == (1, 3, 64, 80)
    assert engine._network(deep=False, inside=False) is engine._moved

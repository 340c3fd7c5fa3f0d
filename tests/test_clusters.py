"""Local workers: which GPU each of them sees."""

from __future__ import annotations

import pytest

from urst_tiles.clusters import visible_gpus, worker_environment


def test_each_worker_gets_a_gpu_of_its_own_and_more_workers_share() -> None:
    assert [worker_environment(number, ("0", "3")) for number in range(3)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "0"},
    ]
    assert worker_environment(1, ()) == {}


@pytest.mark.parametrize(
    ("device", "named", "seen"),
    [
        ("auto", None, ("0", "1")),
        ("cuda", None, ("0", "1")),
        ("auto", "2,5", ("2", "5")),
        ("auto", "GPU-8f6, GPU-1c2", ("GPU-8f6", "GPU-1c2")),
        ("auto", "", ()),
        ("cpu", None, ()),
        ("cuda:1", None, ()),
    ],
)
def test_the_gpus_are_those_the_driver_may_see(
    monkeypatch: pytest.MonkeyPatch, device: str, named: str | None, seen: tuple[str, ...]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(device) == seen


def test_no_gpu_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_gpus("auto") == ()

"""A GPU's streams and flags. No GPU is needed: streams only take note."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count, cycle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support import picture
from urst_tiles.engines import Piece, TorchEngine, run_whole
from urst_tiles.engines.cuda import SLOTS, Pipeline
from urst_tiles.engines.devices import exact_products
from urst_tiles.networks import load_network
from urst_tiles.networks.padding import extend

CUDA = torch.device("cuda")


def windows(count: int, height: int, width: int, dtype: str = "uint8") -> Any:
    return np.stack([picture(height, width, dtype=dtype, seed=seed) for seed in range(count)])


# ---- streams


class Streams:
    """Stands for torch.cuda: what was done on which stream, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []
        self.names = cycle(("arriving", "computing", "leaving"))
        self.current = threading.local()

    def Stream(self, _device: object) -> Any:  # noqa: N802  (torch's name)
        name, events = next(self.names), count()

        def record(event: Any = None) -> Any:
            event = event or self.Event()
            event.name = f"{name} {next(events)}"
            self.log.append(("record", name, event.name))
            return event

        return SimpleNamespace(
            name=name,
            record_event=record,
            wait_event=lambda event: self.log.append(("wait", name, event.name)),
            synchronize=lambda: self.log.append(("host waits", name)),
        )

    def Event(self, *, blocking: bool = False) -> Any:  # noqa: N802  (torch's name)
        event = SimpleNamespace(name="")
        event.synchronize = lambda: self.log.append(("host waits" if blocking else "host spins", event.name))
        return event

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = torch.empty
        fake = SimpleNamespace(
            Stream=self.Stream,
            Event=self.Event,
            stream=lambda _stream: nullcontext(),
            device=lambda _device: nullcontext(),
            synchronize=lambda _device: None,
        )
        monkeypatch.setattr("urst_tiles.engines.cuda.torch.cuda", fake)
        monkeypatch.setattr(
            "urst_tiles.engines.cuda.torch.empty",
            lambda *sizes, pin_memory=False, **options: plain(*sizes, **options),
        )
        monkeypatch.setattr(Tensor, "record_stream", lambda _self, stream: self.log.append(("holds", stream.name)))


def turned(levels: Tensor, pieces: Sequence[Piece]) -> list[Tensor]:
    made = 1 - levels.permute(0, 3, 1, 2) / 255
    return [each[:, *piece.crop] for each, piece in zip(made, pieces, strict=True)]


def through(pipeline: Pipeline, given: Any) -> Any:
    engine: Any = SimpleNamespace(run=pipeline)
    return run_whole(engine, given)


def test_each_stream_waits_for_the_one_before_and_the_host_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams()
    streams.use(monkeypatch)
    given = windows(2, 6, 8)
    found = through(Pipeline(torch.device("cpu"), turned), given)
    assert np.array_equal(found, 255 - given.transpose(0, 3, 1, 2))
    assert streams.log == [
        ("record", "arriving", "arriving 0"),
        ("wait", "computing", "arriving 0"),
        ("holds", "computing"),
        ("record", "computing", "computing 0"),
        ("wait", "leaving", "computing 0"),
        ("holds", "leaving"),
        ("record", "leaving", "leaving 0"),
        ("host waits", "leaving 0"),
    ]


def test_every_thread_gets_its_own_windows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    Streams().use(monkeypatch)
    pipeline = Pipeline(torch.device("cpu"), turned)
    given = [windows(1 + number % 3, 6 + number, 8) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(through, pipeline), given))
    for one, result in zip(given, found, strict=True):
        assert np.array_equal(result, 255 - one.transpose(0, 3, 1, 2))


def test_16_bits_cross_the_bus_as_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network("identity")
    engine = TorchEngine(network.freeze(network.neutral_statistics), device="cpu")
    Streams().use(monkeypatch)
    pipeline = Pipeline(torch.device("cpu"), engine._kept)
    monkeypatch.setattr(engine, "_pipeline", pipeline)
    given = windows(3, 10, 14, "uint16")
    found = run_whole(engine, given)
    assert found.dtype == np.uint16
    assert np.array_equal(found, given.transpose(0, 3, 1, 2))
    pinned = [pipeline._slots.get().result._bytes.nbytes for _ in range(SLOTS)]
    assert max(pinned) == given.nbytes


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_only_what_is_kept_comes_back(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    network = load_network("identity")
    engine = TorchEngine(network.freeze(network.neutral_statistics), device="cpu")
    Streams().use(monkeypatch)
    pipeline = Pipeline(torch.device("cpu"), engine._kept)
    monkeypatch.setattr(engine, "_pipeline", pipeline)
    given, whole = windows(2, 10, 14, dtype), np.zeros((3, 20, 30), dtype)
    crops = [(slice(2, 8), slice(3, 14)), (slice(0, 10), slice(5, 6))]
    places = [whole[:, 1:7, 2:13], whole[:, 10:20, 20:21]]
    engine.run([Piece(*each) for each in zip(given, places, crops, strict=True)])
    wanted = np.zeros_like(whole)
    wanted[:, 1:7, 2:13] = given[0].transpose(2, 0, 1)[:, 2:8, 3:14]
    wanted[:, 10:20, 20:21] = given[1].transpose(2, 0, 1)[:, :, 5:6]
    assert np.array_equal(whole, wanted)
    pinned = [pipeline._slots.get().result._bytes.nbytes for _ in range(SLOTS)]
    assert max(pinned) == sum(place.nbytes for place in places)


def test_a_batch_that_fails_leaves_its_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams()
    streams.use(monkeypatch)

    def refuse(levels: Tensor, pieces: Any) -> list[Tensor]:
        if len(levels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return turned(levels, pieces)

    pipeline = Pipeline(torch.device("cpu"), refuse)
    for _ in range(2 * SLOTS):
        with pytest.raises(torch.OutOfMemoryError):
            through(pipeline, windows(2, 6, 8))
        assert streams.log[-1] == ("host waits", "arriving")
    assert through(pipeline, windows(1, 6, 8)).shape == (1, 3, 6, 8)


def test_only_one_engine_of_a_process_starts_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Streams().use(monkeypatch)
    both = threading.Barrier(2)
    met: list[bool] = []

    def meet(levels: Tensor, pieces: Any) -> list[Tensor]:
        try:
            both.wait(0.3)
            met.append(True)
        except threading.BrokenBarrierError:
            met.append(False)
        return turned(levels, pieces)

    pipelines = [Pipeline(torch.device("cpu"), meet) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pipeline: through(pipeline, windows(1, 6, 8)), pipelines))
    assert met == [False, False]


# ---- float32 is float32


@pytest.fixture
def flags() -> Iterator[Any]:
    """cuDNN's, as PyTorch has them by default before and after."""
    backends: Any = torch.backends
    yield backends.cudnn
    backends.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True  # the newer names of it, too


needs_new_names = pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9")


@needs_new_names
@pytest.mark.parametrize("given", ["nothing", "conv", "all", "old"])
@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_exact_whatever_the_caller_has_set(given: str, tf32: bool, flags: Any) -> None:
    if given == "conv":
        flags.conv.fp32_precision = "ieee"  # from here on PyTorch refuses to say what allow_tf32 is
    if given == "all":
        everything: Any = torch.backends
        everything.fp32_precision = "tf32"
    if given == "old":
        flags.allow_tf32 = False
    before = (flags.conv.fp32_precision, flags.rnn.fp32_precision, flags.deterministic, flags.benchmark)
    with exact_products(CUDA, tf32=tf32):
        assert flags.conv.fp32_precision == ("tf32" if tf32 else "ieee")
        assert (flags.enabled, flags.deterministic, flags.benchmark) == (True, True, False)
        nn.Conv2d(3, 3, 3)(torch.zeros(1, 3, 8, 8))  # the names do not contradict each other where one is used
    assert (flags.conv.fp32_precision, flags.rnn.fp32_precision, flags.deterministic, flags.benchmark) == before


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_exact_where_there_is_only_the_old_name(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(torch.backends.cudnn), "conv", raising=False)
    before = torch.backends.cudnn.allow_tf32
    with exact_products(CUDA, tf32=tf32):
        assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is before


def test_flags_go_back_after_an_error() -> None:
    before = torch.backends.cudnn.deterministic
    with pytest.raises(ValueError, match="no"), exact_products(CUDA, tf32=False):
        raise ValueError("no")
    assert torch.backends.cudnn.deterministic is before


@pytest.mark.parametrize(
    ("precision", "allowed"), [("float32", False), ("tf32", True), ("bfloat16", True), ("float16", True)]
)
def test_which_precisions_leave_bits_of_factors_out(
    precision: Any, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def note(_device: torch.device, *, tf32: bool) -> Any:
        asked.append(tf32)
        return nullcontext()

    monkeypatch.setattr("urst_tiles.engines.torch.exact_products", note)
    network = load_network("identity")
    engine = TorchEngine(network.freeze(network.neutral_statistics), device="cpu", precision=precision)
    run_whole(engine, windows(1, 8, 8))
    assert asked == [allowed]


# ---- far edges


class Places(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where every tensor that is made stands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.found.add(result.device.type)
        return result


def test_far_edges_are_extended_without_a_copy_from_the_host() -> None:
    with Places() as places:
        found = extend(torch.empty(1, 3, 5, 6, device="meta"), 8, 12)
    assert found.shape == (1, 3, 8, 12)
    assert places.found == {"meta"}

"""The frozen network by itself on a device, one batch of windows, in several ways: what a GPU's engine should do is
decided by their times.

"eager" is the network of windows inside a raster, layer by layer, channels last: convolutions pad, with zeros. "padded"
is that of windows at a raster's borders. "channels first" has maps and weights in PyTorch's default layout; phases are
put together by one shuffle. "fused" has cuDNN add biases and clip: that is what the engine does, channels first in
float32 and TF32. "tuned" lets cuDNN try its ways to convolve, which may choose another one each time. "graph" is the
same, captured once as a CUDA graph and replayed on fixed buffers. Each is given the same windows. Levels off are those
from "eager", whose own roundings count as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Spread, alternate
from benchmarks.reference_way import channels_first
from urst_tiles.engines.fusing import fused
from urst_tiles.networks import FrozenNetwork
from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.interior import interior
from urst_tiles.networks.portable import portable

__all__ = ["CALLS", "Way", "compared", "forward", "seconds", "ways"]

CALLS = 8
"""Of the network in a measurement."""
EAGER = "eager"

_WARM_UP = 3
"""Calls on a side stream before one is captured, as PyTorch's documentation asks for."""
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a network on a fixed input."""

    given: Tensor
    # what is read, (N, 3, H, W) in [0, 1]
    run: Callable[[], Tensor]
    held: int = 0
    # bytes of the device that it holds between calls


def forward(network: nn.Module, given: Tensor, precision: str, *, tuned: bool = False) -> Tensor:
    """As the engine calls it: see :class:`urst_tiles.engines.torch.TorchEngine`."""
    half = _HALVES.get(precision)
    with (
        torch.inference_mode(),
        # Casts that are kept would not be the graph's own.
        torch.autocast(given.device.type, half or torch.bfloat16, enabled=half is not None, cache_enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=tuned, deterministic=True, allow_tf32=precision == "tf32"),
    ):
        made: Tensor = network(given)
        return made


def ways(frozen: FrozenNetwork, given: Tensor, precision: str) -> dict[str, Callable[[], Way]]:
    """What makes each way there is, on the device of ``given``, (N, 3, H, W) channels last, whose network's weights are
    too."""
    inside = interior(frozen)

    def way(network: AnySizeNetwork, given: Tensor = given, *, tuned: bool = False) -> Way:
        return Way(given, partial(forward, network, given, precision, tuned=tuned))

    found: dict[str, Callable[[], Way]] = {EAGER: partial(way, inside), "padded": partial(way, frozen)}
    planes, first = given.contiguous(), planar(inside)
    found["channels first"] = partial(way, first, planes)
    if given.is_cuda:
        one, other = fused(inside), fused(first)
        found["fused"] = partial(way, one)
        found["fused, channels first"] = partial(way, other, planes)
        found["tuned"] = partial(way, inside, tuned=True)
        found["channels first, tuned"] = partial(way, first, planes, tuned=True)
        found["graph"] = lambda: _captured(way(inside))
        found["fused, graph"] = lambda: _captured(way(one))
    return found


def planar(network: AnySizeNetwork) -> AnySizeNetwork:
    """A copy whose maps and weights are in PyTorch's default layout."""
    return network.with_module(channels_first(portable(network.module)))


def _captured(way: Way) -> Way:
    """The same as a CUDA graph: it reads the same input, and its output stands in one place."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            way.run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = way.run()

    def replay() -> Tensor:
        graph.replay()
        return made

    return Way(way.given, replay, torch.cuda.memory_reserved() - before)


def seconds(way: Way, fresh: Tensor, calls: int, *, waited: bool) -> float:
    """Of a call, its input copied into place; each ``waited`` for by itself, or all of them at the end."""
    _wait_for(fresh)
    started = time.perf_counter()
    for _ in range(calls):
        way.given.copy_(fresh)
        way.run()
        if waited:
            _wait_for(fresh)
    _wait_for(fresh)
    return (time.perf_counter() - started) / calls


def compared(
    frozen: FrozenNetwork, fresh: Tensor, precision: str, *, repetitions: int, calls: int = CALLS
) -> list[dict[str, Any]]:
    """A row for each way, {"way", "error"} of those that do not run; ratios are taken within each turn. ``fresh``: as
    for :func:`ways`."""
    found: dict[str, Way] = {}
    refused: list[dict[str, Any]] = []
    for name, make in ways(frozen, fresh.clone(memory_format=torch.preserve_format), precision).items():
        try:
            way = make()
            way.run()
            _wait_for(fresh)
        except RuntimeError as error:
            refused.append({"way": name, "error": str(error).strip().partition("\n")[0]})
        else:
            found[name] = way
    # In a row as in a run, where the next batch waits already, and one by one, where each launch counts.
    timed = {
        waited: alternate(
            {name: partial(seconds, way, fresh, calls, waited=waited) for name, way in found.items()}, repetitions
        )
        for waited in (False, True)
    }
    expected = _kept(found[EAGER], fresh, frozen.halo)
    return [
        {
            "way": name,
            "milliseconds": Spread.of(1e3 * each for each in timed[False][name]).to_json(),
            "times_eager": _ratios(timed[False], name),
            "milliseconds_waited": Spread.of(1e3 * each for each in timed[True][name]).to_json(),
            "times_eager_waited": _ratios(timed[True], name),
            "levels_off": 255 * float((_kept(way, fresh, frozen.halo) - expected).abs().max()),
            "held_bytes": way.held,
        }
        for name, way in found.items()
    ] + refused


def _wait_for(given: Tensor) -> None:
    if given.is_cuda:
        torch.cuda.synchronize()


def _kept(way: Way, fresh: Tensor, halo: int) -> Tensor:
    way.given.copy_(fresh)
    made = way.run()
    trimmed = halo - (fresh.shape[-1] - made.shape[-1]) // 2
    return made[..., trimmed : made.shape[-2] - trimmed, trimmed : made.shape[-1] - trimmed].float().clone()


def _ratios(timed: dict[str, list[float]], name: str) -> dict[str, float]:
    return Spread.of(eager / own for eager, own in zip(timed[EAGER], timed[name], strict=True)).to_json()

"""The frozen network by itself on a device, one batch of windows, in several ways: what a GPU's engine should do is
decided by their times.

"eager" is what the engine does. "graph" is the same, captured once as a CUDA graph and replayed on fixed buffers.
"pads" pads without leaving the layout of channels last: PyTorch's own pads on a GPU copy a map to channels first, pad
it so, and the convolution after it copies it back. "channels first" has maps and weights in PyTorch's default layout;
phases are put together by one shuffle. "tuned" lets cuDNN try its ways to convolve, which may choose another one each
time. Each is given the same windows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Spread, alternate
from benchmarks.reference_way import channels_first
from urst_tiles.networks import FrozenNetwork
from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.portable import portable

__all__ = ["CALLS", "Pad", "Way", "compared", "forward", "seconds", "ways"]

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


class Pad(nn.Module):
    """A reflection or replication pad that gives its map channels last: the map is copied once, then its rims."""

    def __init__(self, given: nn.ReflectionPad2d | nn.ReplicationPad2d) -> None:
        super().__init__()
        self.widths = given.padding  # left, right, top, bottom
        self.apart = int(isinstance(given, nn.ReflectionPad2d))  # a mirrored edge is not repeated

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.widths
        (height, width), apart = x.shape[-2:], self.apart
        sides = (top + height + bottom, left + width + right)
        layout = torch.channels_last
        y = torch.empty((*x.shape[:2], *sides), dtype=x.dtype, device=x.device, memory_format=layout)
        rows, cols = slice(top, top + height), slice(left, left + width)
        y[..., rows, cols] = x
        for step in range(max(left, right)):
            if step < left:
                y[..., rows, left - 1 - step] = x[..., apart * (step + 1)]
            if step < right:
                y[..., rows, left + width + step] = x[..., width - 1 - apart * (step + 1)]
        # Rows of the padded map, so that corners come with them.
        for step in range(max(top, bottom)):
            if step < top:
                y[..., top - 1 - step, :] = y[..., top + apart * (step + 1), :]
            if step < bottom:
                y[..., top + height + step, :] = y[..., top + height - 1 - apart * (step + 1), :]
        return y


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


def ways(frozen: FrozenNetwork, given: Tensor, precision: str) -> dict[str, Way]:
    """All there are on the device of ``given``, (N, 3, H, W) channels last, whose network's weights are too."""
    padded = copy.deepcopy(frozen)
    for name, layer in list(padded.named_modules()):
        if isinstance(layer, nn.ReflectionPad2d | nn.ReplicationPad2d):
            padded.set_submodule(name, Pad(layer))
    first = AnySizeNetwork(
        channels_first(portable(frozen.module)), halo=frozen.halo, stride=frozen.stride, minimum=frozen.minimum
    )
    planes = given.contiguous()
    found = {
        EAGER: Way(given, partial(forward, frozen, given, precision)),
        "pads": Way(given, partial(forward, padded, given, precision)),
        "channels first": Way(planes, partial(forward, first, planes, precision)),
    }
    if given.is_cuda:
        found["tuned"] = Way(given, partial(forward, frozen, given, precision, tuned=True))
        for name in (EAGER, "pads"):
            found["graph" if name == EAGER else f"{name}, graph"] = _captured(found[name])
    return found


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
    wait: Callable[[], object] = torch.cuda.synchronize if fresh.is_cuda else (lambda: None)
    wait()
    started = time.perf_counter()
    for _ in range(calls):
        way.given.copy_(fresh)
        way.run()
        if waited:
            wait()
    wait()
    return (time.perf_counter() - started) / calls


def compared(
    frozen: FrozenNetwork, fresh: Tensor, precision: str, *, repetitions: int, calls: int = CALLS
) -> list[dict[str, Any]]:
    """A row for each way; ratios are taken within each turn. ``fresh``: as for :func:`ways`."""
    found = ways(frozen, fresh.clone(memory_format=torch.preserve_format), precision)
    # In a row as in a run, where the next batch waits already, and one by one, where each launch counts.
    timed = {
        waited: alternate(
            {name: partial(seconds, way, fresh, calls, waited=waited) for name, way in found.items()}, repetitions
        )
        for waited in (False, True)
    }
    expected = _result(found[EAGER], fresh)
    return [
        {
            "way": name,
            "milliseconds": Spread.of(1e3 * each for each in timed[False][name]).to_json(),
            "times_eager": _ratios(timed[False], name),
            "milliseconds_waited": Spread.of(1e3 * each for each in timed[True][name]).to_json(),
            "times_eager_waited": _ratios(timed[True], name),
            "levels_off": 255 * float((_result(way, fresh) - expected).abs().max()),
            "held_bytes": way.held,
        }
        for name, way in found.items()
    ]


def _result(way: Way, fresh: Tensor) -> Tensor:
    way.given.copy_(fresh)
    return way.run().float().clone()


def _ratios(timed: dict[str, list[float]], name: str) -> dict[str, float]:
    return Spread.of(eager / own for eager, own in zip(timed[EAGER], timed[name], strict=True)).to_json()

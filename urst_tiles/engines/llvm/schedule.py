"""Running a graph with the maps of our own layers in one block of memory, planned beforehand.

A map that is asked of the system anew comes page by page, filled with zeros: for wide networks that is a fifth of the
time. Here each map has its place in a block that stays from call to call, where nothing else lies while it is needed.
What the block takes is known before anything is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node

from urst_tiles.engines.llvm.convolution import Convolution
from urst_tiles.engines.llvm.layers import Writing, is_channels_last, is_middle
from urst_tiles.engines.llvm.maps import SIZES
from urst_tiles.engines.llvm.workshop import in_turn
from urst_tiles.networks.graphs import Walk, module_of
from urst_tiles.networks.interior import Trim
from urst_tiles.networks.tracing import TRACING

__all__ = ["Bound", "Plan", "Schedule"]

_IMAGE = "placeholder"
"""What torch.fx calls a graph's input."""
_LINE = 16
"""Floats of a line of the processor's cache, where each map begins."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For images of one size.

    Attributes:
        places: where the image and each map of our own layers begin in the block, in floats.
        floats: of the block.
        others: bytes that are held beside it at most.
    """

    places: Mapping[Node, int]
    floats: int
    others: int

    @property
    def nbytes(self) -> int:
        return 4 * self.floats + self.others


@dataclass(frozen=True, slots=True)
class Bound:
    """A graph for images of one size in one block of memory; for one thread at a time.

    Attributes:
        image: (N, 3, H, W) float32, channels last: where the image is to stand that is run next.
        run: gives the picture made of it, (N, 3, H, W), which may lie in the block. The image is lost.
    """

    image: Tensor
    run: Callable[[], Tensor]


class Schedule:
    """A network's graph in which layers that write where they are told to have been put.

    Parameters:
        net: (N, 3, H, W) float32 → (N, 3, H, W).
        convolutions: that are in it.

    Attributes:
        kernels: bytes of all convolutions' kernels as they are kept.
        scratch: bytes that each thread needs while it works.
    """

    def __init__(self, net: GraphModule, convolutions: Sequence[Convolution]) -> None:
        self._net = net
        self.kernels = sum(each.nbytes for each in convolutions)
        self.scratch = 4 * max((each.scratch for each in convolutions), default=0)
        self._convolutions = convolutions
        self._planned = lru_cache(SIZES)(self._plan)

    def plan(self, count: int, height: int, width: int) -> Plan:
        """For so many images of one size, in pixels; multiples of the network's stride."""
        return self._planned(count, height, width)

    def share(self, other: Schedule) -> bool:
        """Take programs and kernels of another one's convolutions, in order; False: they compute something else."""
        if len(self._convolutions) != len(other._convolutions):
            return False
        return all(mine.share(theirs) for mine, theirs in zip(self._convolutions, other._convolutions, strict=True))

    def prepare(self) -> None:
        """Make all programs and kernels that are not made yet.

        Raises:
            UntranslatedError: see :func:`~urst_tiles.engines.llvm.machine.translated`.
        """
        for each in self._convolutions:
            each.ready()

    def bound(self, count: int, height: int, width: int, memory: Tensor) -> Bound:
        """For so many images of one size in ``memory``: as many floats as the plan says, at least, which nobody else
        uses meanwhile.

        Raises:
            UntranslatedError: see :func:`~urst_tiles.engines.llvm.machine.translated`.
        """
        places = self.plan(count, height, width).places
        (begin,) = (place for node, place in places.items() if node.op == _IMAGE)
        shape = (count, height, width, 3)
        image = memory[begin : begin + prod(shape)].view(shape).permute(0, 3, 1, 2)
        binding = _Binding(self._net, places, memory)
        try:
            made = binding.run(image)
        except _UnboundError:
            return Bound(image, lambda: cast("Tensor", _Run(self._net, places, memory).run(image)))
        return Bound(image, partial(_stepwise, tuple(binding.steps), cast("Tensor", made)))

    def _plan(self, count: int, height: int, width: int) -> Plan:
        with TRACING, FakeTensorMode(allow_non_fake_inputs=True):
            trial = _Trial(self._net)
            trial.run(torch.empty(count, height, width, 3).permute(0, 3, 1, 2))
        blocks = [block for block in trial.blocks.values() if block.node is not None]
        places, floats = _placed(blocks)
        others = [block for block in trial.blocks.values() if block.node is None]
        most = max(
            sum(block.nbytes for block in others if block.born <= step <= block.last) + trial.copied.get(step, 0)
            for step in range(trial.steps)
        )
        return Plan(places, floats, most)


@dataclass(slots=True)
class _Block:
    """Memory that one operation asks for, with all views of it."""

    nbytes: int
    born: int
    last: int
    node: Node | None
    # that it has a place for: the image, or a layer of our own that writes it


class _Run(Walk):
    """One call."""

    def __init__(self, net: GraphModule, places: Mapping[Node, int], memory: Tensor) -> None:
        super().__init__(net)
        self._places, self._memory = places, memory

    def run_node(self, n: Node) -> Any:
        module = module_of(cast("GraphModule", self.module), n)
        if not isinstance(module, Writing):
            return super().run_node(n)
        maps, _ = self.fetch_args_kwargs_from_env(n)
        shape = module.shape(maps[0])
        begin = self._places[n]
        return self._write(module, self._memory[begin : begin + prod(shape)].view(shape), *maps)

    def _write(self, module: Writing, result: Tensor, *maps: Tensor) -> Tensor:
        return module.write(result, *maps)


class _UnboundError(Exception):
    """Some map stands somewhere else each time."""


class _Binding(_Run):
    """One call in which no pixel is computed: what layers of our own are to do, where all maps are theirs."""

    def __init__(self, net: GraphModule, places: Mapping[Node, int], memory: Tensor) -> None:
        super().__init__(net, places, memory)
        self.steps: list[Callable[[], None]] = []

    def run_node(self, n: Node) -> Any:
        module = module_of(cast("GraphModule", self.module), n)
        if n.op not in (_IMAGE, "output") and not isinstance(module, Writing | Trim):
            raise _UnboundError
        return super().run_node(n)

    def _write(self, module: Writing, result: Tensor, *maps: Tensor) -> Tensor:
        step = module.bound(result, *maps)
        if step is None:
            raise _UnboundError
        self.steps.append(step)
        return result.permute(0, 3, 1, 2)


def _stepwise(steps: Sequence[Callable[[], None]], made: Tensor) -> Tensor:
    in_turn(steps)
    return made


class _Trial(Walk):
    """One call in which no pixel is computed: what memory is asked for, and when it is read last."""

    def __init__(self, net: GraphModule) -> None:
        super().__init__(net, garbage_collect_values=False)
        self.blocks: dict[int, _Block] = {}
        self.copied: dict[int, int] = {}
        # bytes by step: maps that a convolution wants in another layout
        self.steps = 0
        self._values: list[Any] = []
        # held, so that no two have the same address

    def run_node(self, n: Node) -> Any:
        module = module_of(cast("GraphModule", self.module), n)
        arguments, _ = self.fetch_args_kwargs_from_env(n)
        read = [each for each in _tensors(arguments) if each.untyped_storage()._cdata in self.blocks]  # noqa: SLF001
        for each in read:
            self._block(each).last = self.steps
        if isinstance(module, Writing):
            wanted = [is_middle(each) if each is not arguments[0] else is_channels_last(each) for each in read]
            self.copied[self.steps] = sum(4 * each.numel() for each, so in zip(read, wanted, strict=True) if not so)
            result: Any = torch.empty(module.shape(arguments[0])).permute(0, 3, 1, 2)
        else:
            result = super().run_node(n)
        ours = n.op == _IMAGE or isinstance(module, Writing)
        for each in _tensors(result):
            storage = each.untyped_storage()
            if storage._cdata not in self.blocks:  # noqa: SLF001
                self.blocks[storage._cdata] = _Block(  # noqa: SLF001
                    storage.nbytes(), self.steps, self.steps, n if ours else None
                )
        self._values.append(result)
        if n.op == "output":  # it is read afterwards
            for each in _tensors(result):
                self._block(each).last = len(self.module.graph.nodes)  # type: ignore[union-attr,arg-type]
        self.steps += 1
        return result

    def _block(self, value: Tensor) -> _Block:
        return self.blocks[value.untyped_storage()._cdata]  # noqa: SLF001


def _placed(blocks: list[_Block]) -> tuple[dict[Node, int], int]:
    """A place for each block, in floats, the largest first, each at the lowest one that is free while it is needed; and
    how many floats that takes.
    """
    placed: list[tuple[int, int, _Block]] = []
    for block in sorted(blocks, key=lambda each: (-each.nbytes, each.born)):
        size = -(-block.nbytes // (4 * _LINE)) * _LINE
        begin = 0
        for start, end, other in sorted(placed, key=lambda each: each[0]):
            meets = other.born <= block.last and block.born <= other.last
            if meets and start < begin + size and begin < end:
                begin = end
        placed.append((begin, begin + size, block))
    return {cast("Node", block.node): begin for begin, _, block in placed}, max(
        (end for _, end, _ in placed), default=0
    )


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [each for value in values for each in _tensors(value)]
    return []

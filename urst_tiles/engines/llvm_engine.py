"""Our own convolutions, on a CPU.

The network's graph is PyTorch's, and so is all of it but the convolutions, which are programs made for the processor at
hand (:mod:`urst_tiles.engines.llvm`): those of 3 x 3 by Winograd's way, with a fourth of the multiplications, others as
they are defined; with pads, sums and ReLUs on the way.

As many calls as asked for run at the same time, each on its share of the threads: what a processor does beside the
network, reading and compressing, then holds up one call and not all of them.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from urst_tiles.engines.base import Piece, shifted
from urst_tiles.engines.llvm import UntranslatedError, processor
from urst_tiles.engines.llvm.maps import SIZES, Map
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.base import AnySizeNetwork, FrozenNetwork
from urst_tiles.networks.interior import interior
from urst_tiles.networks.padding import reflected_indices, round_up

if TYPE_CHECKING:
    from urst_tiles.engines.llvm.schedule import Bound, Schedule

__all__ = ["LLVMEngine", "check_llvm", "describe_llvm", "inside_of", "schedule_of"]


def check_llvm(precision: str) -> None:
    """
    Raises:
        InputError: llvmlite is not installed, knows no vectors of this processor, or the precision is another one.
    """
    processor()
    if precision not in ("auto", "float32"):
        raise InputError(f"the LLVM engine computes in float32, not {precision}; use --engine torch or openvino")


def describe_llvm() -> str:
    """ "llvm 0.50, AVX-512, float32, 2 threads"."""
    from importlib.metadata import version

    return f"llvmlite {version('llvmlite')}, {processor().name}, float32, {torch.get_num_threads()} threads"


class LLVMEngine:
    """Float32; windows of any size and number.

    Parameters:
        network: what is run; it is left as it is.
        calls: made at the same time, at most; each takes memory for maps of its own. They share the threads, so there
            are no more of them than threads.

    Raises:
        InputError: see :func:`check_llvm`.
        NetworkError: the network is no graph.
    """

    def __init__(self, network: FrozenNetwork, *, calls: int = 1) -> None:
        check_llvm("float32")
        calls = max(1, min(calls, torch.get_num_threads()))
        from urst_tiles.engines.llvm.levels import Levels

        workshop = Workshop(torch.get_num_threads() // calls)
        self._network, self._levels = network, Levels(workshop)
        self._schedule, self._workshop = schedule_of(network, workshop), workshop
        self._lock = threading.Lock()
        self._made: tuple[AnySizeNetwork, Schedule] | None = None
        # of windows inside a raster, when the first one comes
        self._memory = queue.LifoQueue[_Memory]()  # one for each call
        for _ in range(calls):
            self._memory.put(_Memory())

    @property
    def description(self) -> str:
        return describe_llvm()

    @property
    def limit(self) -> int | None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        return None

    @property
    def device_peak(self) -> int | None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        return None

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        try:
            self._schedule.prepare()
            self._levels.prepare()
        except UntranslatedError as error:
            raise NetworkError(f"LLVM makes no programs here ({error}); use --engine torch") from error
        # What a window becomes must not hang on what it is run with.
        groups = [list(alike) for _, alike in groupby(pieces, lambda piece: piece.rim >= self._network.halo)]
        for group in groups:
            self._run(group, on_taken if group is groups[-1] else None)

    def _run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None) -> None:
        """All of them inside the raster, or none."""
        inside = pieces[0].rim >= self._network.halo
        network, schedule = self._within() if inside else (self._network, self._schedule)
        height, width = pieces[0].window.shape[:2]
        over, across = (max(round_up(side, network.stride), network.minimum) for side in (height, width))
        memory = self._memory.get()
        try:
            bound = memory.bound(schedule, len(pieces), over, across)
            for piece, each in zip(pieces, _maps(bound.image), strict=True):
                self._levels.read(piece.window, each[:height, :width])
                _extend(each, height, width)
            if on_taken is not None:
                on_taken()
            with torch.inference_mode():
                made = bound.run()
            for piece, each in zip(pieces, _maps(made), strict=True):
                self._levels.write(each[shifted(piece.crop, height, width, network.trimmed)], piece.place)
        finally:
            self._memory.put(memory)

    def _within(self) -> tuple[AnySizeNetwork, Schedule]:
        """The network of windows inside a raster, and its schedule."""
        with self._lock:
            if self._made is None:
                self._made = inside_of(self._network, self._schedule, self._workshop)
            return self._made


class _Memory:
    """Of one call: the maps of its last window, and those of its next; and what is bound to that memory, which goes
    where more is asked for. For one thread at a time."""

    def __init__(self) -> None:
        self._floats = torch.empty(0)
        self._bound: dict[tuple[Schedule, int, int, int], Bound] = {}

    def bound(self, schedule: Schedule, count: int, height: int, width: int) -> Bound:
        """For so many images of one size."""
        floats = schedule.plan(count, height, width).floats
        if len(self._floats) < floats:
            self._bound, self._floats = {}, torch.empty(0)  # before more is asked for
            self._floats = torch.empty(floats)
        wanted = schedule, count, height, width
        found = self._bound.pop(wanted, None) or schedule.bound(count, height, width, self._floats)
        if len(self._bound) == SIZES:
            del self._bound[next(iter(self._bound))]
        self._bound[wanted] = found  # the one used last stands last
        return found


def schedule_of(network: AnySizeNetwork, workshop: Workshop | None = None) -> Schedule:
    """The network with our own convolutions in it, on the threads of a workshop; without one, on one thread.

    Raises:
        InputError: see :func:`check_llvm`.
        NetworkError: the network is no graph.
    """
    check_llvm("float32")
    from urst_tiles.engines.llvm.rewriting import convolve
    from urst_tiles.engines.llvm.schedule import Schedule

    module = copy.deepcopy(network.module)
    if not isinstance(module, GraphModule):
        raise NetworkError("the LLVM engine runs networks whose layers could be put into a graph; use --engine torch")
    # Of trimmed maps something must be left.
    least = round_up(network.minimum + 2 * network.trimmed, network.stride)
    return Schedule(module, convolve(module, least, network.stride, workshop or Workshop(1)))


def inside_of(
    network: FrozenNetwork, whole: Schedule, workshop: Workshop | None = None
) -> tuple[AnySizeNetwork, Schedule]:
    """The network for windows inside a raster and its schedule, which shares programs and kernels with that of the
    whole; both themselves where those would not be all the same: they would be held twice."""
    within = interior(network)
    if within is network:
        return network, whole
    schedule = schedule_of(within, workshop)
    return (within, schedule) if schedule.share(whole) else (network, whole)


def _extend(image: Map, height: int, width: int) -> None:
    """Reflected pixels at the bottom and on the right of a map of which so much is written, as
    :class:`~urst_tiles.networks.base.AnySizeNetwork` adds them.
    """
    for axis, length in ((0, height), (1, width)):
        along = image.swapaxes(0, axis)
        if len(along) > length:
            along[length:] = along[reflected_indices(length, len(along)).numpy()[length:]]


def _maps(images: Tensor) -> Map:
    """(N, C, H, W) → (N, H, W, C), in one piece."""
    return cast("Map", images.permute(0, 2, 3, 1).contiguous().numpy())

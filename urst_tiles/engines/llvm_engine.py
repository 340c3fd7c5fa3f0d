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
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from urst_tiles.engines.llvm import UntranslatedError, processor
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.padding import extend, round_up
from urst_tiles.sources.base import Pixels

if TYPE_CHECKING:
    from urst_tiles.engines.llvm.schedule import Schedule

__all__ = ["LLVMEngine", "check_llvm", "describe_llvm", "schedule_of"]


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
        self._stride, self._minimum = network.stride, network.minimum
        self._schedule = schedule_of(network, torch.get_num_threads() // calls)
        # One for each call: the maps of its last window, and those of its next.
        self._memory = queue.LifoQueue[Tensor]()
        for _ in range(calls):
            self._memory.put(torch.empty(0))

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

    def run(self, windows: Pixels) -> Pixels:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        try:
            self._schedule.prepare()
        except UntranslatedError as error:
            raise NetworkError(f"LLVM makes no programs here ({error}); use --engine torch") from error
        with torch.inference_mode():
            result: Pixels = self._levels(torch.from_numpy(windows)).numpy()
        return result if result.dtype == windows.dtype else cast("Pixels", result.astype(windows.dtype))

    def _levels(self, levels: Tensor) -> Tensor:
        """(N, H, W, 3) levels → (N, 3, H, W): uint8, or int32 for 16 bits."""
        narrow = levels.dtype == torch.uint8
        top = 255.0 if narrow else 65535.0
        count, height, width, _ = levels.shape
        over, across = (max(round_up(side, self._stride), self._minimum) for side in (height, width))
        memory = self._memory.get()
        try:
            memory = self._enough(memory, self._schedule.plan(count, over, across).floats)
            image = self._schedule.image(count, over, across, memory)
            image.copy_(extend(levels.permute(0, 3, 1, 2), over, across)).div_(top)
            picture = self._schedule.run(image, memory)[..., :height, :width]
            # As the frozen network does: what is no number is grey.
            picture = picture.clamp_(0.0, 1.0).nan_to_num_(nan=0.5)
            return picture.mul_(top).round_().to(torch.uint8 if narrow else torch.int32)
        finally:
            self._memory.put(memory)

    def _enough(self, memory: Tensor, floats: int) -> Tensor:
        if len(memory) >= floats:
            return memory
        del memory  # before more is asked for
        return torch.empty(floats)


def schedule_of(network: FrozenNetwork, threads: int = 1) -> Schedule:
    """The network with our own convolutions in it, each of which runs on so many threads.

    Raises:
        InputError: see :func:`check_llvm`.
        NetworkError: the network is no graph.
    """
    check_llvm("float32")
    from urst_tiles.engines.llvm.rewriting import convolve
    from urst_tiles.engines.llvm.schedule import Schedule
    from urst_tiles.engines.llvm.workshop import Workshop

    module = copy.deepcopy(network.module)
    if not isinstance(module, GraphModule):
        raise NetworkError("the LLVM engine runs networks whose layers could be put into a graph; use --engine torch")
    return Schedule(module, convolve(module, network.minimum, network.stride, Workshop(threads)))

"""PyTorch, on a CPU or a GPU, as it is or compiled.

Whole levels cross the bus (uint8 is a quarter of float32); scaling to [0, 1], the network and rounding back happen on
the device.

When a GPU's memory runs out, half as many windows are run at a time from then on; nothing is lost, as a window's result
is its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from urst_tiles.engines.compiling import compiled
from urst_tiles.engines.cuda import Pipeline
from urst_tiles.engines.devices import choose_device, is_out_of_memory, limit_bytes, peak_bytes, release_cache
from urst_tiles.errors import DeviceMemoryError
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.sources.base import Pixels

__all__ = ["Precision", "TorchEngine", "choose_device", "describe"]

Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
"""Of the arithmetic. "auto" is float32. "tf32" is a GPU's: 10 bits in a convolution's products, all else float32."""


def describe(device: str, precision: Precision, *, compile: bool = False) -> str:  # noqa: A002  (torch's own word)
    """What an engine runs on: "torch 2.13, cpu, float32, 2 threads"."""
    chosen = choose_device(device)
    where = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    threads = f", {torch.get_num_threads()} threads" if chosen.type == "cpu" else ""
    name = "torch.compile" if compile else "torch"
    return f"{name} {torch.__version__}, {where}, {precision}{threads}"


class TorchEngine:
    """Inference mode, channels last; reduced precision only where it was asked for.

    Parameters:
        network: what is run; it is moved to the device, in place.
        device_memory: bytes of a GPU that this process may hold, CUDA's context included; None: all there is.
        compile: the network's layers are joined and compiled when they are first run, which takes a minute or so.

    Raises:
        InputError: the device is unknown or not there, or nothing here compiles.
        DeviceMemoryError: the weights do not fit.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        device_memory: int | None = None,
        compile: bool = False,  # noqa: A002  (torch's own word)
    ) -> None:
        self._device = choose_device(device)
        self._precision: Precision = "float32" if precision == "auto" else precision
        self._compile = compile
        self._limit: int | None = None
        self._lock = threading.Lock()
        if device_memory is not None:
            limit_bytes(self._device, device_memory)
        # Moving a module changes it in place: the engine works on the one it was given, as nobody else runs it.
        try:
            moved = network.eval().to(self._device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"the network's weights do not fit into the memory of {self._device}; use --device cpu, or a larger "
                "--device-memory where one was given"
            ) from error
        for parameter in moved.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._network = compiled(moved, self._device) if compile else moved
        self._pipeline = Pipeline(self._device, self._levels) if self._device.type == "cuda" else None

    @property
    def description(self) -> str:
        return describe(str(self._device), self._precision, compile=self._compile)

    @property
    def limit(self) -> int | None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        return self._limit

    @property
    def device_peak(self) -> int | None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        return peak_bytes(self._device)

    def run(self, windows: Pixels) -> Pixels:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        results: list[Pixels] = []
        done = 0
        while done < len(windows):
            part = windows[done : done + (self._limit or len(windows))]
            result = self._run_if_it_fits(part)
            if result is None:
                self._run_fewer_than(part)
                continue
            results.append(result)
            done += len(part)
        return results[0] if len(results) == 1 else cast("Pixels", np.concatenate(results))

    def _run_if_it_fits(self, windows: Pixels) -> Pixels | None:
        """The result, or None where memory ran out."""
        try:
            return self._run(windows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _run_fewer_than(self, windows: Pixels) -> None:
        """Half as many windows from now on. Called when the error is gone, whose traceback holds the feature maps."""
        release_cache(self._device)
        count, height, width = windows.shape[:3]
        if count == 1:
            raise DeviceMemoryError(
                f"one window of {width} x {height} px does not fit into the memory of {self._device}; "
                "use a smaller --window, or --device cpu"
            )
        self._limit = count // 2

    def _run(self, windows: Pixels) -> Pixels:
        if self._pipeline is None:
            with self._lock:
                result: Pixels = self._levels(torch.from_numpy(windows)).numpy()
        else:
            result = self._pipeline(windows)
        return result if result.dtype == windows.dtype else cast("Pixels", result.astype(windows.dtype))

    def _levels(self, levels: Tensor) -> Tensor:
        """(N, H, W, 3) levels on the device → (N, 3, H, W): uint8, or int32 for 16 bits."""
        narrow = levels.dtype == torch.uint8
        top = 255.0 if narrow else 65535.0
        with torch.inference_mode(), self._autocast(), self._exact_products():
            # (N, H, W, 3) seen as (N, 3, H, W) is already channels last: no copy.
            picture = self._network(levels.permute(0, 3, 1, 2).to(torch.float32).div_(top))
            rounded: Tensor = picture.float().mul_(top).round_().to(torch.uint8 if narrow else torch.int32)
            # A GPU puts it in one piece, for one copy across the bus.
            return rounded.contiguous() if self._pipeline is not None else rounded

    def _autocast(self) -> torch.autocast:
        halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        dtype = halves.get(self._precision)
        return torch.autocast(self._device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    @contextlib.contextmanager
    def _exact_products(self) -> Iterator[None]:
        """cuDNN's own choice for float32 is TF32, which is off by more than a level; and, of its ways to convolve, one
        whose sums come out in the same order each time."""
        if self._device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=self._precision == "tf32"):
            yield

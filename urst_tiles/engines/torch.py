"""PyTorch, on a CPU or a GPU.

Whole levels cross the bus (uint8 is a quarter of float32); scaling to [0, 1], the network and rounding back happen on
the device.

When a GPU's memory runs out, half as many windows are run at a time from then on; nothing is lost, as a window's result
is its own.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch

from urst_tiles.engines.devices import choose_device, is_out_of_memory, limit_bytes, peak_bytes, release_cache
from urst_tiles.errors import DeviceMemoryError
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.sources.base import Pixels

__all__ = ["Precision", "TorchEngine", "choose_device", "describe"]

Precision = Literal["float32", "bfloat16", "float16"]


def describe(device: str, precision: Precision) -> str:
    """What an engine runs on: "torch 2.13, cpu, float32, 2 threads"."""
    chosen = choose_device(device)
    where = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    threads = f", {torch.get_num_threads()} threads" if chosen.type == "cpu" else ""
    return f"torch {torch.__version__}, {where}, {precision}{threads}"


class TorchEngine:
    """Inference mode, channels last; reduced precision only where it was asked for.

    Parameters:
        network: what is run; it is moved to the device, in place.
        device_memory: bytes of a GPU that this process may hold, CUDA's context included; None: all there is.

    Raises:
        InputError: the device is unknown or not there.
        DeviceMemoryError: the weights do not fit.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        device_memory: int | None = None,
    ) -> None:
        self._device = choose_device(device)
        self._dtype: torch.dtype = getattr(torch, precision)
        self._precision: Precision = precision
        self._limit: int | None = None
        if device_memory is not None:
            limit_bytes(self._device, device_memory)
        # Moving a module changes it in place: the engine works on the one it was given, as nobody else runs it.
        try:
            self._network = network.eval().to(self._device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"the network's weights do not fit into the memory of {self._device}; use --device cpu, or a larger "
                "--device-memory where one was given"
            ) from error
        for parameter in self._network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def description(self) -> str:
        return describe(str(self._device), self._precision)

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
        top = float(np.iinfo(windows.dtype).max)
        with torch.inference_mode(), self._autocast():
            # (N, H, W, 3) seen as (N, 3, H, W) is already channels last: no copy.
            levels = torch.from_numpy(windows).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            picture = self._network(levels.to(torch.float32).div_(top))
            del levels
            picture = picture.float().mul_(top).round_()
            wide = torch.uint8 if windows.dtype == np.uint8 else torch.int32
            result: Pixels = picture.to(wide).cpu().numpy()
        return result if result.dtype == windows.dtype else cast("Pixels", result.astype(windows.dtype))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._precision != "float32")

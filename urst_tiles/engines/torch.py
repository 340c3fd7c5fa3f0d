"""PyTorch, on a CPU or a GPU.

Whole levels cross the bus (uint8 is a quarter of float32); scaling to [0, 1], the network and rounding back happen on
the device.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch

from urst_tiles.errors import InputError
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.sources.base import Pixels

__all__ = ["Precision", "TorchEngine", "choose_device"]

Precision = Literal["float32", "bfloat16", "float16"]


def choose_device(device: str) -> torch.device:
    """ "auto" is the first CUDA device if there is one, else the CPU.

    Raises:
        InputError: the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"{device} was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    return chosen


class TorchEngine:
    """Inference mode, channels last; reduced precision only where it was asked for."""

    def __init__(self, network: FrozenNetwork, *, device: str = "auto", precision: Precision = "float32") -> None:
        self._device = choose_device(device)
        self._dtype: torch.dtype = getattr(torch, precision)
        # Moving a module changes it in place: the engine works on the one it was given, as nobody else runs it.
        self._network = network.eval().to(self._device)
        for parameter in self._network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._precision = precision

    @property
    def description(self) -> str:
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        threads = f", {torch.get_num_threads()} threads" if self._device.type == "cpu" else ""
        return f"torch {torch.__version__}, {where}, {self._precision}{threads}"

    def run(self, windows: Pixels) -> Pixels:
        """See :class:`~urst_tiles.engines.base.Engine`."""
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

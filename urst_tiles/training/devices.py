"""Where a training computes, and in what."""

from __future__ import annotations

import torch

from urst_tiles.errors import InputError
from urst_tiles.training.config import Precision

__all__ = ["chosen_device", "chosen_precision"]


def chosen_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is any.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def chosen_precision(name: Precision, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the device multiplies in it, float32 elsewhere: emulated bfloat16 is slower than
    float32."""
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.bfloat16 if native else torch.float32

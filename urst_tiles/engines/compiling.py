"""torch.compile, for windows of any size from one compilation."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch

from urst_tiles.errors import InputError
from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.portable import portable

__all__ = ["check_compiler", "compiled"]


# With it, PyTorch 2.13 fails on a pad that reads phases put together (pytorch issue 187337).
_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"constant_and_index_propagation": False}


def check_compiler(device: torch.device) -> None:
    """
    Raises:
        InputError: what torch.compile needs is not here: a C++ compiler, or Triton for a GPU.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise InputError("torch.compile on a GPU needs Triton, which is not installed here; use --engine torch")
        return
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"torch.compile needs a C++ compiler, and there is no {compiler} here; install it, name another one in "
            "CXX, or use --engine torch"
        )


def compiled(network: AnySizeNetwork, device: torch.device) -> AnySizeNetwork:
    """The same network, its layers compiled when they are first run. The one given is left as it is.

    Raises:
        InputError: nothing here compiles.
    """
    check_compiler(device)
    # Windows come in up to nine sizes, clipped at the raster's borders: one compilation is for all that are no squares.
    module: Any = torch.compile(portable(network.module), dynamic=True, options=_OPTIONS)
    return AnySizeNetwork(module, halo=network.halo, stride=network.stride, minimum=network.minimum)

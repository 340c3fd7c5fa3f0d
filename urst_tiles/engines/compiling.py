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

_OLDEST = (7, 0)
"""Compute capability of a GPU that PyTorch makes Triton's kernels for."""

# With it, PyTorch 2.13 fails on a pad that reads phases put together (pytorch issue 187337).
_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"constant_and_index_propagation": False}


def check_compiler(device: torch.device) -> None:
    """
    Raises:
        InputError: what torch.compile needs is not here: a C++ compiler, or for a GPU Triton, a C compiler and a GPU
            that Triton takes.
    """
    if device.type == "cuda":
        _check_triton(device)
        return
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"torch.compile needs a C++ compiler, and there is no {compiler} here; install it, name another one in "
            "CXX, or use --engine torch"
        )


def _check_triton(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        raise InputError(
            f"torch.compile needs a GPU of compute capability {_named(_OLDEST)} or more, and {device} has "
            f"{_named(capability)}; use --engine torch"
        )
    if importlib.util.find_spec("triton") is None:
        raise InputError("torch.compile on a GPU needs Triton, which is not installed here; use --engine torch")
    # Triton has it translate what starts its kernels, when they are first run.
    named = os.environ.get("CC")
    if not any(shutil.which(compiler) for compiler in ([named] if named else ["gcc", "clang"])):
        raise InputError(
            f"torch.compile on a GPU needs a C compiler, and there is no {named or 'gcc or clang'} here; install it, "
            "name another one in CC, or use --engine torch"
        )


def _named(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def compiled(network: AnySizeNetwork, device: torch.device) -> AnySizeNetwork:
    """The same network, its layers compiled when they are first run. The one given is left as it is.

    Raises:
        InputError: nothing here compiles.
    """
    check_compiler(device)
    # Windows come in up to nine sizes, clipped at the raster's borders: one compilation is for all that are no squares.
    module: Any = torch.compile(portable(network.module), dynamic=True, options=_OPTIONS)
    return network.with_module(module)

"""Which engine runs a network, and making it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch

from urst_tiles.engines.base import Engine, run_whole
from urst_tiles.engines.compiling import check_compiler
from urst_tiles.engines.devices import choose_device
from urst_tiles.engines.llvm import known_processor
from urst_tiles.engines.llvm_engine import LLVMEngine, check_llvm, describe_llvm
from urst_tiles.engines.openvino import OpenVINOEngine, check_openvino, describe_openvino, is_installed
from urst_tiles.engines.torch import Precision, TorchEngine, describe
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.sources.base import Pixels
from urst_tiles.statistics import collect_statistics

__all__ = ["ENGINES", "PAYS", "EngineName", "describe_engine", "make_engine", "most_calls", "suitable", "why_not"]

EngineName = Literal["torch", "compile", "openvino", "llvm"]

ENGINES: tuple[EngineName, ...] = ("torch", "compile", "openvino", "llvm")

PAYS = 8_000_000
"""Pixels of a raster from which LLVM and OpenVINO save more than the one to three seconds that getting them ready
takes. Of the raster, not of a region, so that a region is made as the whole is."""

_ON_CPUS: Mapping[EngineName, str] = MappingProxyType({"openvino": "OpenVINO", "llvm": "LLVM"})
"""In words for people."""


def suitable(
    engine: str, *, device: str = "auto", precision: Precision = "float32", pixels: int = PAYS
) -> tuple[EngineName, ...]:
    """The engines to be considered, the preferred one first; one, where one was asked for.

    ``pixels``: of the raster.

    Raises:
        InputError: what was asked for is unknown, or cannot be here.
    """
    chosen = choose_device(device)
    precision = "float32" if precision == "auto" else precision
    if engine == "auto":
        if chosen.type != "cpu" or precision != "float32" or pixels < PAYS:
            return ("torch",)
        faster: list[EngineName] = ["llvm"] if known_processor() is not None else []
        return (*faster, "openvino", "torch") if is_installed() else (*faster, "torch")
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; use auto, {', '.join(ENGINES)}")
    if engine == "compile":
        check_compiler(chosen)
    if engine in _ON_CPUS and chosen.type != "cpu":
        name = _ON_CPUS[engine]
        raise InputError(f"{name} runs on the CPU here, not on {device}; use --device cpu or --engine torch")
    if engine == "openvino":
        check_openvino(precision)
    if engine == "llvm":
        check_llvm(precision)
    return (engine,)


def most_calls(engine: str, processes: int = 1) -> int:
    """How many calls an engine makes at the same time, each on its share of the processor, if it is let; in each of so
    many processes, which share the processor.

    A call that has the processor to itself is held up by whatever else runs on it: reading, compressing. Of two, one
    goes on.
    """
    return max(1, min(2, torch.get_num_threads() // processes)) if engine in _ON_CPUS else 1


def why_not(network: StyleNetwork | FrozenNetwork, engine: EngineName) -> str | None:
    """Why an engine is not to run a network, in words; None: it gives the pixels that PyTorch gives, to one level.

    Tried with noise, frozen with the statistics of noise where it is not frozen yet.
    """
    if engine not in _ON_CPUS:
        return None
    side = max(network.minimum, 64)
    noise = _noise(side + network.stride + 1, side)
    frozen = network if isinstance(network, FrozenNetwork) else network.freeze(collect_statistics(network, noise))
    try:
        tried: Engine = OpenVINOEngine(frozen) if engine == "openvino" else LLVMEngine(frozen)
        found = run_whole(tried, noise[None]).astype(int)
    except NetworkError as error:
        return str(error)
    off = int(np.abs(found - run_whole(TorchEngine(frozen, device="cpu"), noise[None])).max())
    return None if off <= 1 else f"{_ON_CPUS[engine]}'s pixels are up to {off} levels off PyTorch's with this network"


def make_engine(
    network: FrozenNetwork,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    device_memory: int | None = None,
    calls: int = 1,
) -> Engine:
    """An engine for a frozen network.

    Parameters:
        network: what is run; it may be moved to the device, in place.
        engine: one of :data:`ENGINES`, or "auto": on a CPU LLVM or OpenVINO, where it is installed and agrees with
            PyTorch.
        device: "auto", "cpu", "cuda" or "cuda:N".
        device_memory: bytes of a GPU that this process may hold; None: all there is.
        calls: made at the same time, at most, where the engine can do so: see :func:`most_calls`.

    Raises:
        InputError: what was asked for is unknown, or is not here.
        DeviceMemoryError: the weights do not fit.
    """
    named = suitable(engine, device=device, precision=precision)
    # The last one runs every network; the only one was asked for.
    name = next((each for each in named[:-1] if why_not(network, each) is None), named[-1])
    if name == "llvm":
        return LLVMEngine(network, calls=calls)
    if name == "openvino":
        return OpenVINOEngine(network, precision="float32" if precision == "auto" else precision, calls=calls)
    return TorchEngine(
        network, device=device, precision=precision, device_memory=device_memory, compile=name == "compile"
    )


def describe_engine(engine: str, device: str, precision: Precision) -> str:
    """What an engine runs on, for the report: "openvino 2026.4, cpu, float32, 2 threads"."""
    if engine == "llvm":
        return describe_llvm()
    if engine == "openvino":
        return describe_openvino(precision)
    return describe(device, precision, compile=engine == "compile")


def _noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

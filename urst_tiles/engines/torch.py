"""PyTorch, on a CPU or a GPU, as it is or compiled.

Whole levels cross the bus (uint8 is a quarter of float32); scaling to [0, 1], the network, cutting out what is kept and
rounding it happen on the device.

When a call is too much for a GPU, half as many windows are run at a time from then on; nothing is lost, as a window's
result is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from urst_tiles.engines.base import Piece, shifted
from urst_tiles.engines.compiling import check_compiler, compiled
from urst_tiles.engines.cuda import Pipeline, rounded, top_of
from urst_tiles.engines.devices import (
    choose_device,
    exact_products,
    is_out_of_memory,
    limit_bytes,
    peak_bytes,
    release_cache,
    why_too_much,
)
from urst_tiles.engines.fusing import fused_where_it_agrees
from urst_tiles.errors import DeviceMemoryError
from urst_tiles.networks.base import AnySizeNetwork, FrozenNetwork
from urst_tiles.networks.graphs import Convolution, module_of
from urst_tiles.networks.interior import interior
from urst_tiles.networks.tracing import copy_sharing_weights

__all__ = ["Precision", "TorchEngine", "choose_device", "describe"]

Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
"""Of the arithmetic. "auto" is float32. "tf32" is a GPU's: 10 bits in a convolution's products, all else float32. Of 16
bits, "bfloat16" and "float16" leave the last convolution's sums in float32."""

_HALVES = MappingProxyType({"bfloat16": torch.bfloat16, "float16": torch.float16})


def describe(device: str, precision: Precision, *, compile: bool = False) -> str:  # noqa: A002  (torch's own word)
    """What an engine runs on: "torch 2.13, cpu, float32, 2 threads"."""
    chosen = choose_device(device)
    where = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    threads = f", {torch.get_num_threads()} threads" if chosen.type == "cpu" else ""
    name = "torch.compile" if compile else "torch"
    return f"{name} {torch.__version__}, {where}, {precision}{threads}"


class TorchEngine:
    """Inference mode; reduced precision only where it was asked for.

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
        # None too: an engine before this one may have left a limit in the process.
        limit_bytes(self._device, device_memory)
        if compile:
            check_compiler(self._device)
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
        # A GPU multiplies 16 bits in units that want channels last; all else it takes longer for in that layout.
        planes = self._device.type == "cuda" and self._precision not in _HALVES
        self._layout = torch.contiguous_format if planes else torch.channels_last
        for parameter in moved.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self._layout)
        self._moved = moved
        self._networks: dict[tuple[bool, bool], AnySizeNetwork] = {}
        self._pipeline = Pipeline(self._device, self._kept) if self._device.type == "cuda" else None

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

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        """See :class:`~urst_tiles.engines.base.Engine`."""
        # Inside the raster another network runs. What a window becomes must not hang on what it is run with.
        for _, alike in groupby(pieces, self._is_inside):
            self._run_alike(list(alike))
        if on_taken is not None:  # not before: what was too much is read again
            on_taken()

    def _run_alike(self, pieces: Sequence[Piece]) -> None:
        done = 0
        while done < len(pieces):
            part = pieces[done : done + (self._limit or len(pieces))]
            refused = None
            try:
                self._run(part)
                done += len(part)
            except RuntimeError as error:
                refused = why_too_much(error)
                if refused is None:
                    raise
            # Here the error is gone, whose traceback holds the feature maps.
            if refused is not None:
                self._run_fewer_than(part, refused)

    def _run_fewer_than(self, pieces: Sequence[Piece], refused: str) -> None:
        """Half as many windows from now on."""
        release_cache(self._device)
        if len(pieces) == 1:
            height, width = pieces[0].window.shape[:2]
            raise DeviceMemoryError(
                f"one window of {width} x {height} px {refused} {self._device}; use a smaller --window, or --device cpu"
            )
        self._limit = len(pieces) // 2

    def _run(self, pieces: Sequence[Piece]) -> None:
        if self._pipeline is not None:
            self._pipeline(pieces)
            return
        with self._lock, torch.inference_mode():
            levels = torch.from_numpy(np.stack([piece.window for piece in pieces]))
            for piece, kept in zip(pieces, self._kept(levels, pieces), strict=True):
                torch.from_numpy(piece.place).copy_(rounded(kept, top_of(levels)))

    def _kept(self, levels: Tensor, pieces: Sequence[Piece]) -> list[Tensor]:
        """(N, H, W, 3) levels on the device, uint8 or uint16 → what is kept of each, (3, rows, columns), 0 … 1: views.
        All pieces are inside the raster, or none."""
        with torch.inference_mode(), self._autocast(), self._products():
            network = self._network(deep=levels.dtype != torch.uint8, inside=self._is_inside(pieces[0]))
            given = levels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self._layout)
            picture: Tensor = network(given.div_(top_of(levels)))
        height, width = levels.shape[1:3]
        return [
            made[:, *shifted(piece.crop, height, width, network.trimmed)]
            for piece, made in zip(pieces, picture, strict=True)
        ]

    def _is_inside(self, piece: Piece) -> bool:
        return piece.rim >= self._moved.halo

    def _network(self, *, deep: bool, inside: bool) -> AnySizeNetwork:
        """For pictures of 16 bits or of 8, inside a raster or at its borders, made when first asked for, in the modes
        that it is run in."""
        deep = deep and self._precision in _HALVES
        if (deep, inside) not in self._networks:
            network: AnySizeNetwork = interior(self._moved) if inside else self._moved
            network = _with_a_wide_end(network) if deep else network
            if self._compile:
                network = compiled(network, self._device)
            elif self._device.type == "cuda":
                network = fused_where_it_agrees(network, self._device)
            self._networks[deep, inside] = network
        return self._networks[deep, inside]

    def _autocast(self) -> torch.autocast:
        dtype = _HALVES.get(self._precision)
        return torch.autocast(self._device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def _products(self) -> AbstractContextManager[None]:
        # In half precision only the wide end is float32, and TF32 leaves its factors no fewer bits than half precision.
        return exact_products(self._device, tf32=self._precision != "float32")


def _with_a_wide_end(network: AnySizeNetwork) -> AnySizeNetwork:
    """The same network with the same weights, whose last convolution leaves its sums in float32 under autocast: rounded
    to half precision, the picture would have a tenth of the levels of 16 bits, or less.

    A network that is no graph stays as it is: which of its layers is the last is not known.
    """
    net = network.module
    if not isinstance(net, GraphModule):
        return network
    found = (str(node.target) for node in reversed(net.graph.nodes) if isinstance(module_of(net, node), Convolution))
    last = next(found, None)
    if last is None:
        return network
    copied = copy_sharing_weights(network)
    copied.module.set_submodule(last, _Wide(net.get_submodule(last)))
    return copied


class _Wide(nn.Module):
    """A layer that autocast leaves in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.layer(x.float())
        return y

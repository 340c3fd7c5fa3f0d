"""OpenVINO, on a CPU.

The frozen network is exported from PyTorch once and compiled once, for windows of any size and number: on a CPU that
costs no speed against one compilation a size. Scaling, the network and rounding are one graph; whole levels go in and
come out.

As many calls as asked for run at the same time, each on its share of the threads: what a processor does beside the
network, reading and compressing, then holds up one call and not all of them.

The model is given to OpenVINO's front end directly. ``openvino.convert_model`` does the same, and tells a server of its
maker about it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.engines.base import Piece
from urst_tiles.errors import InputError, NetworkError, reason_of
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.padding import extend, round_up
from urst_tiles.networks.portable import portable
from urst_tiles.networks.tracing import recording
from urst_tiles.sources.base import Pixels

__all__ = ["OpenVINOEngine", "check_openvino", "describe_openvino", "is_installed"]

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""Left alone, OpenVINO computes in bfloat16 where the processor can."""


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def check_openvino(precision: str) -> None:
    """
    Raises:
        InputError: OpenVINO is not installed, or does not compute in this precision here.
    """
    if not is_installed():
        raise InputError(
            "OpenVINO is not installed here; install it (pip install 'urst-tiles[openvino]') or use --engine torch"
        )
    if precision not in _HINTS:
        raise InputError(f"OpenVINO on a CPU computes in float32 or bfloat16, not {precision}; use --engine torch")
    if precision == "bfloat16":
        import openvino

        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise InputError("this processor has no bfloat16; use --precision float32")


def describe_openvino(precision: str) -> str:
    """ "openvino 2026.4, cpu, float32, 2 threads"."""
    from importlib.metadata import version

    return f"openvino {version('openvino')}, cpu, {precision}, {torch.get_num_threads()} threads"


class OpenVINOEngine:
    """One graph from levels to levels.

    Parameters:
        network: what is run; it is left as it is.
        precision: of the arithmetic; "bfloat16" only where the processor has it.
        calls: made at the same time, at most; each takes memory for maps of its own. They share the threads, so there
            are no more of them than threads.

    Raises:
        InputError: OpenVINO is not installed, or has no such precision here.
        NetworkError: OpenVINO does not know an operation of the network.
    """

    def __init__(self, network: FrozenNetwork, *, precision: str = "float32", calls: int = 1) -> None:
        check_openvino(precision)
        self._precision, self._calls = precision, max(1, min(calls, torch.get_num_threads()))
        self._stride, self._minimum = network.stride, network.minimum
        self._network = network
        self._lock = threading.Lock()
        # by the type of the levels: the requests that nobody uses; each holds its compiled model
        self._requests: dict[np.dtype[Any], queue.SimpleQueue[Any]] = {}

    @property
    def description(self) -> str:
        return describe_openvino(self._precision)

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
        height, width = pieces[0].window.shape[:2]
        windows = cast("Pixels", np.stack([piece.window for piece in pieces]))
        if on_taken is not None:
            on_taken()
        given = np.ascontiguousarray(self._extended(windows))
        with self._request(windows.dtype) as request:
            # The request's own memory, which the next call writes again.
            results = request.infer({0: given})[0][..., :height, :width]
            for piece, result in zip(pieces, results, strict=True):
                piece.place[:] = result[:, *piece.crop]

    def _extended(self, windows: Pixels) -> Pixels:
        """With reflected pixels on the far edges, as :class:`~urst_tiles.networks.base.AnySizeNetwork` adds them."""
        sides = tuple(max(round_up(side, self._stride), self._minimum) for side in windows.shape[1:3])
        if windows.shape[1:3] == sides:
            return windows
        # What PyTorch can index is of the same width; it need not be the same type.
        levels = torch.from_numpy(windows.view(np.int16) if windows.dtype == np.uint16 else windows)
        whole = extend(levels.permute(0, 3, 1, 2), *sides).permute(0, 2, 3, 1)
        return cast("Pixels", whole.contiguous().numpy().view(windows.dtype))

    @contextlib.contextmanager
    def _request(self, dtype: np.dtype[Any]) -> Iterator[Any]:
        """One that nobody else uses meanwhile."""
        with self._lock:
            if dtype not in self._requests:
                self._requests[dtype] = self._compiled(dtype)
            requests = self._requests[dtype]
        request = requests.get()
        try:
            yield request
        finally:
            requests.put(request)

    def _compiled(self, dtype: np.dtype[Any]) -> queue.SimpleQueue[Any]:
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": self._calls,
            "PERFORMANCE_HINT": "LATENCY",
            # Threads that are bound to a core wait there for whatever else runs on it.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            import openvino

            model = _of_type(_convert(self._network, float(np.iinfo(dtype).max)), dtype)
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:  # exporter and front end raise what they like
            raise NetworkError(
                f"OpenVINO does not take this network ({reason_of(error)}); use --engine torch"
            ) from error
        requests = queue.SimpleQueue[Any]()
        for _ in range(self._calls):
            requests.put(compiled.create_infer_request())
        return requests


class _Levels(nn.Module):
    """(N, H, W, 3) levels → (N, 3, H, W) levels, H and W as the network takes them."""

    def __init__(self, network: FrozenNetwork, top: float) -> None:
        super().__init__()
        self.module = portable(network.module)
        self.top = top

    def forward(self, levels: Tensor) -> Tensor:
        picture: Tensor = self.module(levels.permute(0, 3, 1, 2).to(torch.float32) / self.top)
        # As the frozen network does: what is no number is grey.
        picture = torch.where(torch.isnan(picture), 0.5, picture).clamp(0.0, 1.0)
        return (picture * self.top).round().to(torch.int32)


def _of_type(model: Any, dtype: np.dtype[Any]) -> Any:
    """The model with levels of this type on both ends; PyTorch's exporter knows no unsigned 16 bits."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    ends.input().tensor().set_element_type(Type(dtype))
    ends.output().tensor().set_element_type(Type(dtype))
    return ends.build()


def _convert(network: FrozenNetwork, top: float) -> Any:
    """The network as OpenVINO's model from and to levels of 0 to ``top``, all but the three channels dynamic."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    side = 2 * network.minimum
    # Two windows that are no square: a number of 1 would be taken for a constant.
    example = torch.zeros(2, side, side + network.stride, 3, dtype=torch.int32)
    with recording():
        program = torch.export.export(_Levels(network, top), (example,), strict=False)
        decoder = TorchFXPythonDecoder(program.run_decompositions(_kept_whole()).module(), dynamic_shapes=True)
        frontend = FrontEndManager().load_by_framework("pytorch")
        frontend.add_extension(ConversionExtension("aten.replication_pad2d.default", _repeat_edge))
        frontend.add_extension(ConversionExtension("aten.pixel_shuffle.default", _shuffle_pixels))
        model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, -1, -1, 3])
    return model


def _kept_whole() -> Any:
    """What is to be taken apart before conversion: all but what OpenVINO takes whole."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    table: Any = torch.export.default_decompositions()
    for operation in (*ops_to_not_decompose(), torch.ops.aten.replication_pad2d.default):
        table.pop(operation, None)
    return table


def _repeat_edge(context: Any) -> Any:
    from openvino import opset13

    left, right, top, bottom = context.get_values_from_const_input(1)
    begin, end = np.array([0, 0, top, left]), np.array([0, 0, bottom, right])
    return opset13.pad(context.get_input(0), begin, end, "edge").outputs()


def _shuffle_pixels(context: Any) -> Any:
    from openvino import opset13

    factor = int(context.get_values_from_const_input(1))
    # One operation instead of the three that OpenVINO writes: it keeps the layout of the map.
    return opset13.depth_to_space(context.get_input(0), "depth_first", factor).outputs()

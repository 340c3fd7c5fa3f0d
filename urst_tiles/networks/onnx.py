"""A frozen network as an ONNX model, for other programs.

Input "image" and output "result" are (batch, 3, height, width) float32 RGB in [0, 1]. Batch, height and width are
dynamic; height and width are to be multiples of the stride, no smaller than the minimum. Whoever runs it on windows of
a larger picture throws the halo away, as ``metadata_props`` tell.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from urst_tiles.errors import InputError, NetworkError, reason_of
from urst_tiles.networks.base import FrozenNetwork
from urst_tiles.networks.portable import portable
from urst_tiles.networks.tracing import recording

__all__ = ["OPSET", "onnx_bytes"]

OPSET = 18


def onnx_bytes(network: FrozenNetwork, facts: Mapping[str, str]) -> bytes:
    """The model; ``facts`` go to its metadata, beside stride, halo and minimum in pixels and the range of the values.

    Raises:
        InputError: the exporter is not installed.
        NetworkError: the network has an operation that ONNX does not.
    """
    _check_installed()
    side = 2 * max(network.minimum, network.stride)
    # No square, and two of it: sides that are equal and a number of 1 would be taken for constants.
    example = torch.zeros(2, 3, side, side + network.stride)
    sides = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
    try:
        with recording(), _quiet():
            exported = torch.export.export(_Picture(network), (example,), dynamic_shapes=sides, strict=False)
            program: Any = torch.onnx.export(
                exported, (), dynamo=True, opset_version=OPSET, verbose=False, input_names=["image"],
                output_names=["result"],
            )  # fmt: skip
    except Exception as error:  # the exporter raises what it likes
        what = f"{type(error).__name__}: {reason_of(error)}"
        raise NetworkError(f"this network cannot be written as ONNX ({what})") from error
    written = io.BytesIO()
    program.save(written)
    own = {
        "stride": str(network.stride),
        "halo": str(network.halo),
        "minimum": str(network.minimum),
        "value_range": "0,1",
        "channels": "RGB",
    }
    return _finished(written.getvalue(), {**facts, **own})


class _Picture(nn.Module):
    """(N, 3, H, W) in [0, 1] → the same, H and W multiples of the stride."""

    def __init__(self, network: FrozenNetwork) -> None:
        super().__init__()
        self.module = portable(network.module)

    def forward(self, image: Tensor) -> Tensor:
        # As the frozen network does: what is no number is grey.
        result: Tensor = self.module(image)
        return torch.where(torch.isnan(result), 0.5, result).clamp(0.0, 1.0)


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{' and '.join(missing)} not installed here; install them (pip install 'urst-tiles[onnx]')")


def _finished(data: bytes, facts: Mapping[str, str]) -> bytes:
    """The model with its dimensions named, with ``facts``, and without what the exporter noted of where it ran."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    for value in (graph.input[0], graph.output[0]):
        for index, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[index].dim_param = name
        del value.metadata_props[:]
    # Of maps in between: sums and quotients of names that are gone.
    del graph.value_info[:]
    for node in graph.node:
        # Stack traces, with the paths of the machine that it was written on.
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))
    model.producer_name = "urst-tiles"
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings about packages that it does not need here, and about its own internals."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)

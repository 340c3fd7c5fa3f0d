"""A network's graph of ATen operations, and the arguments of an operation by name."""

from __future__ import annotations

import contextlib
import copy
import linecache
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.fx.config
import torch.fx.graph_module
from torch import nn
from torch.fx import Graph, Node

from urst_tiles.errors import NetworkError

__all__ = [
    "PROBE_SIDE",
    "TRACING",
    "Recording",
    "arguments",
    "capture",
    "copy_sharing_weights",
    "operation",
    "recording",
    "sources_forgotten",
]

_Module = TypeVar("_Module", bound=nn.Module)

PROBE_SIDE = 960
"""Side of the square the graph is recorded at: divisible by 64, 3 and 5, and wider than twice any sensible padding."""

TRACING = threading.RLock()
"""Held by whoever traces or records a network. torch patches nn.Module for the whole process meanwhile, and of two that
do so at the same time the one that ends first takes away the other's patches, the last one puts them back for good."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A graph of ATen operations from one image to one image."""

    graph: Graph
    image: Node
    result: Node
    side: int
    # height and width of the image it was recorded with, in pixels


def capture(module: nn.Module, side: int = PROBE_SIDE) -> Recording:
    """Record what ``module`` does to a (1, 3, side, side) image, as a graph without in-place operations on views.

    No pixel is computed: the recording runs on shapes alone and takes well under a second, whatever the side.

    Raises:
        NetworkError: the module cannot be recorded, for example because it branches on pixel values.
    """
    weight = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.empty(0))
    # One number in memory, and no view of it: what torch makes of a view and its base is never freed again.
    image = torch.empty_strided((1, 3, side, side), (0, 0, 0, 0), dtype=weight.dtype, device=weight.device)
    try:
        with recording(), _no_stack_traces():
            # A copy: torch puts tensors without values in the place of its weights, and others may be running it.
            program = torch.export.export(copy_sharing_weights(module), (image,), strict=False)
            if any(_writes_through_view(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise NetworkError(
            f"the graph of {type(module).__name__} cannot be recorded at {side} x {side} px: "
            f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}"
        ) from error
    named = {node.name: node for node in program.graph.nodes}
    results = next(node for node in program.graph.nodes if node.op == "output").all_input_nodes
    images = [named[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
    if len(images) != 1 or len(results) != 1:
        raise NetworkError(f"the network takes {len(images)} images and returns {len(results)}; one of each is needed")
    return Recording(program.graph, images[0], results[0], side)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Around torch.export: by one thread at a time, nothing of it reaches the others, and nothing of it stays."""
    with TRACING, torch.no_grad(), warnings.catch_warnings(), _backends_left_alone(), sources_forgotten():
        warnings.simplefilter("ignore")  # FutureWarnings of torch about its own internals
        yield


@contextlib.contextmanager
def sources_forgotten() -> Iterator[None]:
    """torch writes a graph as Python each time that it makes or changes one, and keeps the text of each for tracebacks,
    for good."""
    texts: dict[str, str] = getattr(getattr(torch.fx.graph_module, "_loader", None), "eval_cache", {})
    before = set(texts)
    try:
        yield
    finally:
        for name in set(texts) - before:
            texts.pop(name, None)
            linecache.cache.pop(name, None)


@contextlib.contextmanager
def _backends_left_alone() -> Iterator[None]:
    """torch.export turns oneDNN and cuDNN off, for the whole process: what other threads compute meanwhile would go
    other ways, take more memory and have other last bits. Nothing is computed here, so they stay as they are."""
    thread = threading.get_ident()

    def guarded(original: Any) -> Any:
        def set_flags(*flags: Any, **named: Any) -> Any:
            return () if threading.get_ident() == thread else original(*flags, **named)

        return set_flags

    backends: Any = (torch.backends.mkldnn, torch.backends.nnpack, torch.backends.cudnn)
    originals = [backend.set_flags for backend in backends]
    try:
        for backend, original in zip(backends, originals, strict=True):
            backend.set_flags = guarded(original)
        yield
    finally:
        for backend, original in zip(backends, originals, strict=True):
            backend.set_flags = original


@contextlib.contextmanager
def _no_stack_traces() -> Iterator[None]:
    """Nobody reads where in a network's source each operation came from, and noting it takes an eighth of the time.

    torch has this setting only process-wide: for whoever holds :data:`TRACING`.
    """
    settings: Any = torch.fx.config
    before = getattr(settings, "do_not_emit_stack_traces", False)  # not there in torch 2.7
    settings.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        settings.do_not_emit_stack_traces = before


def copy_sharing_weights(module: _Module) -> _Module:
    """Layers of its own, whose tensors are those of the module given."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def operation(node: Node) -> str:
    """The operation's name without namespace and overload: "conv2d", "add", "relu_"."""
    if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  (the only name torch gives this class)
        return str(node.target.overloadpacket.__name__)
    return str(getattr(node.target, "__name__", node.target))


def arguments(node: Node) -> dict[str, Any]:
    """The node's arguments by the names of the operation's schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001
    named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    named.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    named.update(node.kwargs)
    return named


def _writes_through_view(node: Node) -> bool:
    """In-place on what another operation may still read under another name. relu_ on a convolution's output is not
    that.
    """
    if node.op != "call_function" or not operation(node).endswith("_"):
        return False
    written = node.args[0]
    views = (
        "slice",
        "select",
        "view",
        "chunk",
        "split",
        "getitem",
        "permute",
        "transpose",
        "reshape",
        "narrow",
        "alias",
    )
    return isinstance(written, Node) and (operation(written) in views or len(written.users) > 1)

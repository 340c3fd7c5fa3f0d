"""Handling a network as a :mod:`torch.fx` graph: tracing it, and the questions that rewrites ask of a node."""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node, Tracer
from torch.nn import functional

from urst_tiles.networks.joined import Joined
from urst_tiles.networks.normalization import Leaf
from urst_tiles.networks.tracing import TRACING

__all__ = [
    "Convolution",
    "Walk",
    "channels_last",
    "copies_pixels",
    "flatten",
    "input_of",
    "is_fresh",
    "module_of",
    "only_reader",
    "relu_after",
    "remove",
    "shapes",
    "used_once",
]

_log = logging.getLogger(__name__)

Convolution = nn.Conv2d | nn.ConvTranspose2d
_RELUS = (functional.relu, torch.relu, torch.relu_)
_COPYING_MODULES = (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.UpsamplingNearest2d)


def flatten(module: nn.Module) -> nn.Module:
    """The same layers called one after another from one graph, or the module itself where it cannot be traced.

    A graph drops each feature map after its last reader. Nested modules cannot: every caller on the way down holds its
    argument until the call returns.
    """
    try:
        with TRACING:
            graph = _LeafTracer().trace(module)
    except (TypeError, RuntimeError, ValueError, AttributeError, torch.fx.proxy.TraceError) as error:
        # A forward that branches on shapes, say. It works as it is, only not as lean.
        _log.info("%s stays as it is, its layers are not joined: %s", type(module).__name__, error)
        return module
    for node in graph.nodes:
        node.type = None  # annotations are strings here, which nobody reads
    return Joined(module, graph, type(module).__name__)


def channels_last(module: nn.Module) -> nn.Module:
    """The module, its weights laid out so that every convolution's feature map is channels last.

    oneDNN computes with that layout: on a CPU it is faster, and no convolution copies its input first.
    """
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


class _LeafTracer(Tracer):
    """Takes a :class:`Leaf` for one operation. What other threads run meanwhile, torch hands over too: that is left
    alone."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Leaf) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def input_of(node: Node) -> Node:
    """The node that another one reads first."""
    found = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if not isinstance(found, Node):
        raise TypeError(f"{node} does not read another node first")
    return found


def module_of(net: GraphModule, node: Node) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


def only_reader(source: Node, node: Node) -> bool:
    return list(source.users) == [node]


def relu_after(net: GraphModule, node: Node) -> Node | None:
    """A ReLU that alone reads a node; None where there is none."""
    reader = next(iter(node.users), None)
    if reader is None or not only_reader(node, reader):
        return None
    return reader if isinstance(module_of(net, reader), nn.ReLU) or reader.target in _RELUS else None


def used_once(net: GraphModule, node: Node) -> bool:
    """Whether this is the only call of its module: shared weights must not be changed for one of two callers."""
    module = module_of(net, node)
    return sum(module_of(net, other) is module for other in net.graph.nodes if other.op == "call_module") == 1


def copies_pixels(net: GraphModule, node: Node) -> bool:
    """Operations whose every output pixel is one of the input's: they commute with a scale and shift."""
    module = module_of(net, node)
    if isinstance(module, nn.Upsample):
        return module.mode == "nearest"
    if node.op == "call_function" and node.target is functional.pad:
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        return mode in ("reflect", "replicate")
    if node.op == "call_function" and node.target is functional.interpolate:
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")
        return mode == "nearest"
    return isinstance(module, _COPYING_MODULES)


def is_fresh(net: GraphModule, node: Node) -> bool:
    """Whether a node's value is a tensor of its own, not the caller's image and not a view of something."""
    if node.op == "call_function":
        return node.target in (operator.add, operator.sub, operator.mul, torch.add, torch.cat)
    return isinstance(module_of(net, node), Convolution | Leaf)


def remove(node: Node) -> None:
    """Let the readers of a node read its input."""
    node.replace_all_uses_with(input_of(node))
    node.graph.erase_node(node)


class Walk(Interpreter):
    """A graph run node by node. torch's own notes which one is at work, in one place for the whole process, where
    another thread may be recording a network; this one does not."""

    def run_node(self, n: Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)


def shapes(net: GraphModule, side: int) -> dict[Node, torch.Size]:
    """Of each node's map, for one image of this side in pixels. No pixel is computed."""
    found: dict[Node, torch.Size] = {}

    class Shapes(Walk):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                found[n] = result.shape
            return result

    weight = next(net.parameters(), torch.empty(0))
    with TRACING, FakeTensorMode(allow_non_fake_inputs=True):
        Shapes(net).run(torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device))
    return found

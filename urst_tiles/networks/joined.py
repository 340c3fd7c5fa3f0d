"""A network as one graph, which goes to other processes and threads as the list of its nodes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from urst_tiles.networks.tracing import sources_forgotten

__all__ = ["Joined"]


class Joined(GraphModule):
    """A :class:`torch.fx.GraphModule` that is pickled as it is.

    torch's own writes its code, and whoever reads that traces it again. To trace, torch patches nn.Module for the whole
    process, and networks that run there in other threads meanwhile fail.
    """

    def recompile(self) -> Any:
        """torch's, which keeps no text of it."""
        with sources_forgotten():
            return super().recompile()

    def __reduce__(self) -> tuple[Any, ...]:
        layers = nn.Module()
        for name in ("training", "_parameters", "_buffers", "_modules"):
            layers.__dict__[name] = self.__dict__[name]
        return _joined, (layers, [_Step.of(node) for node in self.graph.nodes], type(self).__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands for a node among arguments."""

    name: str


@dataclass(frozen=True, slots=True)
class _Step:
    """A node."""

    op: str
    name: str
    target: str | Callable[..., Any] | _Function
    args: Any
    kwargs: Any

    @staticmethod
    def of(node: Node) -> _Step:
        args, kwargs = (map_aggregate(values, _place) for values in (node.args, node.kwargs))
        target = node.target if isinstance(node.target, str) else _Function.of(node.target)
        return _Step(node.op, node.name, target, args, kwargs)


@dataclass(frozen=True, slots=True)
class _Function:
    """A function that stands in a module under its name. Some of torch's are not pickled otherwise."""

    module: str
    name: str

    @staticmethod
    def of(function: Callable[..., Any]) -> _Function | Callable[..., Any]:
        named = _Function(str(getattr(function, "__module__", None)), str(getattr(function, "__name__", None)))
        try:
            return named if named.found() is function else function
        except (ImportError, AttributeError):
            return function

    def found(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


def _place(value: Any) -> Any:
    return _Place(value.name) if isinstance(value, Node) else value


def _joined(layers: nn.Module, steps: list[_Step], name: str) -> Joined:
    graph = Graph()
    nodes: dict[str, Node] = {}

    def put_back(value: Any) -> Any:
        return nodes[value.name] if isinstance(value, _Place) else value

    for step in steps:
        target = step.target.found() if isinstance(step.target, _Function) else step.target
        args, kwargs = (map_aggregate(values, put_back) for values in (step.args, step.kwargs))
        nodes[step.name] = graph.create_node(step.op, target, args, kwargs, step.name)
    return Joined(layers, graph, name)

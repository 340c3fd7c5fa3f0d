"""What running a network costs: memory, arithmetic, weights. From the graph, before anything is run.

The graph is recorded at two sizes. Along each axis a feature map's side is a straight line in the image's side (stride
2 halves it, a pad adds a constant), so the two recordings give every map's exact size at any size.

Memory is the largest sum of maps that are alive at once, each from the operation that makes it to its last reader;
in-place operations and views add nothing. This is what a flat graph such as a frozen network's holds, and as its maps
are channels last, oneDNN's convolutions work on them where they lie. Two terms come on top, both found by measuring:

* glibc keeps freed blocks of up to 32 MiB for later, and they fit the next map badly: up to 2.3 times what the maps of
  that size add up to was measured, at widths 8, 16 and 32 and 256 to 2048 px, so ``FRAGMENTS`` times it is added;
* ``FIXED`` for reordered weights, threads' stacks and what the first call sets up.

Without the first term (as with ``mallopt(M_MMAP_THRESHOLD, 1 << 20)``) measured peaks lie within 2 MiB of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import nn
from torch.fx import Node

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import AnySizeNetwork
from urst_tiles.networks.padding import round_up
from urst_tiles.networks.reach import shape_of
from urst_tiles.networks.tracing import PROBE_SIDE, Recording, arguments, capture, operation

__all__ = ["Footprint", "multiply_adds", "multiply_adds_at", "parameter_bytes", "peak_activation_bytes"]

FIXED = 8 << 20
"""Bytes."""

FRAGMENTS = 2.5
_SMALL = 32 << 20
"""Bytes: glibc's largest threshold for giving a block back to the system at once."""


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of weights and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def peak_activation_bytes(module: nn.Module, height: int, width: int, *, batch: int = 1, fragments: bool = True) -> int:
    """Bytes needed beside the weights while ``module`` runs on (batch, 3, height, width), input and output included.

    ``fragments`` is False where the allocator gives freed memory back at once: the first of the two terms is left out.
    """
    return Footprint.of(module).peak_activation_bytes(height, width, batch=batch, fragments=fragments)


def multiply_adds(module: nn.Module, height: int, width: int) -> int:
    """Multiplications of all convolutions for one image."""
    return Footprint.of(module).multiply_adds(height, width)


def multiply_adds_at(module: nn.Module, side: int) -> int:
    """The same for a square image of a side that the network takes; by one recording, of just that.

    Raises:
        NetworkError: the graph cannot be recorded.
    """
    convolutions = (node for node in capture(module, side).graph.nodes if node.op == "call_function")
    counts = ((_multiplications(node), node) for node in convolutions)
    return sum(count * prod(shape_of(_counted(node))[-2:]) for count, node in counts if count)


@dataclass(frozen=True, slots=True)
class _Map:
    """Elements and sides of one feature map, as straight lines in the image's sides."""

    depth: int
    # elements per position times bytes per element
    rows: tuple[float, float]
    # positions per pixel, and positions in any case
    cols: tuple[float, float]

    def positions(self, height: int, width: int) -> int:
        return ceil(self.rows[0] * height + self.rows[1]) * ceil(self.cols[0] * width + self.cols[1])

    def bytes(self, height: int, width: int) -> int:
        return self.depth * self.positions(height, width)


_NOTHING = _Map(0, (0.0, 0.0), (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation: the maps that are alive while it runs, and its multiplications per position of ``counted``."""

    alive: tuple[_Map, ...]
    multiplications: int
    counted: _Map


@dataclass(frozen=True, slots=True)
class Footprint:
    """The costs of one network at any size; two recordings of its graph, made once."""

    steps: tuple[_Step, ...]
    stride: int
    # sizes are rounded up to it, as the network itself does
    minimum: int

    @classmethod
    def of(cls, module: nn.Module) -> Footprint:
        """Raises NetworkError where the graph cannot be recorded."""
        small, large = capture(module, PROBE_SIDE), capture(module, 2 * PROBE_SIDE)
        if [operation(node) for node in small.graph.nodes] != [operation(node) for node in large.graph.nodes]:
            raise NetworkError(f"{type(module).__name__} runs other operations at other sizes")
        stride, minimum = (module.stride, module.minimum) if isinstance(module, AnySizeNetwork) else (1, 1)
        return cls(_steps(small, large), stride, minimum)

    def side(self, length: int) -> int:
        """What the network is run on for an image of this side, in pixels."""
        return max(round_up(length, self.stride), self.minimum)

    def peak_activation_bytes(self, height: int, width: int, *, batch: int = 1, fragments: bool = True) -> int:
        """See :func:`peak_activation_bytes`."""
        height, width = self.side(height), self.side(width)

        def held(step: _Step) -> tuple[int, int]:
            sizes = [batch * each.bytes(height, width) for each in step.alive]
            return sum(sizes), sum(size for size in sizes if size < _SMALL)

        every = [held(step) for step in self.steps]
        peak, small = max(each[0] for each in every), max(each[1] for each in every)
        return peak + (int(FRAGMENTS * small) if fragments else 0) + FIXED

    def multiply_adds(self, height: int, width: int) -> int:
        """See :func:`multiply_adds`."""
        height, width = self.side(height), self.side(width)
        return sum(step.multiplications * step.counted.positions(height, width) for step in self.steps)


def _steps(small: Recording, large: Recording) -> tuple[_Step, ...]:
    nodes = [node for node in small.graph.nodes if node is small.image or node.op == "call_function"]
    twins = dict(zip(small.graph.nodes, large.graph.nodes, strict=True))
    owner = {node: _owner(node) for node in nodes}
    maps = {node: _map(node, twins[node]) for node in nodes if owner[node] is node}
    last = {root: index for index, node in enumerate(nodes) for root in _roots(node, owner)}
    last[small.image] = len(nodes)  # the caller holds it
    born = {node: index for index, node in enumerate(nodes)}
    steps = []
    for index, node in enumerate(nodes):
        alive = tuple(each for root, each in maps.items() if born[root] <= index <= last[root])
        # What belongs to the weights (a view of a scale, say) is counted with them.
        counted = maps.get(owner[_counted(node)], _NOTHING)
        steps.append(_Step(alive, _multiplications(node), counted))
    return tuple(steps)


def _owner(node: Node) -> Node:
    """The node whose memory a node's value lies in: itself, or what it is a view of or was written into."""
    while node.op == "call_function" and _shares_memory(node):
        node = node.all_input_nodes[0]
    return node


def _shares_memory(node: Node) -> bool:
    name = operation(node)
    if name == "getitem":
        return True
    if name in ("contiguous", "reshape", "to", "_to_copy", "expand"):
        return False  # may or may not copy: count it
    returns = node.target._schema.returns  # type: ignore[union-attr]  # noqa: SLF001
    return bool(returns) and returns[0].alias_info is not None


def _roots(node: Node, owner: dict[Node, Node]) -> set[Node]:
    return {owner[node]} | {owner[source] for source in node.all_input_nodes if source in owner}


def _counted(node: Node) -> Node:
    """Multiplications are counted per output position, but per input position of a transposed convolution."""
    return node.all_input_nodes[0] if "transpose" in operation(node) else node


def _multiplications(node: Node) -> int:
    if operation(node) not in ("conv2d", "conv_transpose2d"):
        return 0
    # (out, in / groups, h, w), or (in, out / groups, h, w) when transposed: each position of the other side meets each
    # weight once.
    return prod(shape_of(arguments(node)["weight"]))


def _map(small: Node, large: Node) -> _Map:
    one, two = shape_of(small), shape_of(large)
    item = torch.empty(0, dtype=_dtype(small)).element_size()
    if one == two:  # made from weights alone
        return _Map(item * prod(one), (0.0, 1.0), (0.0, 1.0))
    if len(one) < 3 or one[:-2] != two[:-2]:
        raise NetworkError(f"{small.target} makes a tensor of shape {one}: its size at other sizes is not known")
    rows, cols = (_line(a, b) for a, b in zip(one[-2:], two[-2:], strict=True))
    return _Map(item * prod(one[:-2]), rows, cols)


def _line(one: int, two: int) -> tuple[float, float]:
    slope = (two - one) / PROBE_SIDE
    return slope, one - slope * PROBE_SIDE


def _dtype(node: Node) -> torch.dtype:
    value = node.meta["val"]
    dtype: torch.dtype = (value[0] if isinstance(value, list | tuple) else value).dtype
    return dtype

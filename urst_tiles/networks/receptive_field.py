"""Halo, stride, scale and smallest size of a network, derived from its graph.

The graph is recorded once (:mod:`urst_tiles.networks.tracing`) and walked twice.

*Forwards*, each node gets its pitch (input pixels per position: a stride-2 convolution doubles it, a x2 upsampling
halves it) and its origin (where its position 0 lies, in input pixels: 1 - 2 = -1 after padding by 1 what was cropped
by 2).

*Backwards*, from the output positions of one period of the network's stride, 0 … S - 1, each node gets the interval of
its positions that those outputs are made from. Where a node has several readers, it is the hull of what they need::

    output                      0──────S-1                   needed
    9x9 convolution         ┌─4─┴──────┴─4─┐
    nearest x2             ┌┴──── a // 2 ──┴┐                half as many positions, twice the pitch
    3x3 convolution       ┌┴1─            ─1┴┐
      …
    input             ◄─left─►0──────S-1◄─right─►            in pixels

The halo is the widest reach of any node to either side, in pixels, rounded up to the stride: a window that holds it
computes its core from the same numbers as the whole image does. At the raster's true border the window ends where the
raster ends, and the network's own padding, which reflects no further than it reaches, sees the same pixels too.
Intervals are exact for every operation listed in :mod:`urst_tiles.networks.reach`; a network with any other is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm

from torch import nn
from torch.fx import Node

from urst_tiles.errors import NetworkError
from urst_tiles.networks.padding import round_up
from urst_tiles.networks.reach import POINTWISE, Reach, reaches, shape_of, where
from urst_tiles.networks.tracing import Recording, arguments, capture, operation

__all__ = ["ReceptiveField", "analyse", "receptive_field"]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What tiling needs to know of a network. In input pixels."""

    halo: int
    # reach to the farther side, rounded up to the stride
    stride: int
    # the network commutes with shifts by it, and takes sizes that are multiples of it
    scale: Fraction
    # output pixels per input pixel
    minimum: int
    # smallest side that every layer accepts, a multiple of the stride


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node's positions lie along one axis, in input pixels."""

    pitch: Fraction
    origin: Fraction


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the analysis."""

    left: Fraction
    # reach before the first pixel of the period
    right: Fraction
    # reach after the last
    stride: int
    scale: Fraction
    minimum: int


def receptive_field(module: nn.Module) -> ReceptiveField:
    """Derive the receptive field of an image-to-image module, (N, 3, H, W) → (N, C, H', W').

    Raises:
        NetworkError: the graph cannot be recorded, an operation cannot be tiled, or the output's size is not in a
        fixed proportion
            to the input's.
    """
    return analyse(capture(module))


def analyse(recording: Recording) -> ReceptiveField:
    """The same for a graph that is recorded already."""
    if len(shape_of(recording.result)) != 4:
        raise NetworkError(f"the network returns a tensor of shape {shape_of(recording.result)}, not (N, C, H, W)")
    chain = _between(recording)
    steps = {node: reaches(node) if node is not recording.image else (POINTWISE, POINTWISE) for node in chain}
    rows, cols = (
        _along(chain, {node: pair[axis] for node, pair in steps.items()}, axis, recording.side) for axis in (0, 1)
    )
    if rows.scale != cols.scale:
        raise NetworkError(f"the network scales rows by {rows.scale} and columns by {cols.scale}; both must be alike")
    stride = lcm(rows.stride, cols.stride)
    reach = max(rows.left, rows.right, cols.left, cols.right)
    return ReceptiveField(
        round_up(ceil(reach), stride), stride, rows.scale, round_up(max(rows.minimum, cols.minimum), stride)
    )


def _along(chain: list[Node], steps: dict[Node, Reach], axis: int, side: int) -> _Axis:
    places = _forwards(chain, steps)
    result = chain[-1]
    stride = lcm(*(place.pitch.numerator for place in places.values()))
    scale = 1 / places[result].pitch
    size = shape_of(result)[axis - 2]
    if size != side * scale:
        raise NetworkError(
            f"an input of {side} px gives an output of {size} px where {side * scale} were expected; "
            "the output must cover the input exactly: pad what the convolutions take away"
        )
    left = right = Fraction(0)
    for node, (low, high) in _backwards(chain, steps, int(stride * scale)).items():
        place = places[node]
        left = max(left, -(place.origin + low * place.pitch))
        right = max(right, place.origin + (high + 1) * place.pitch - stride)
    return _Axis(left, right, stride, scale, _minimum(chain, steps, places, axis, side))


def _forwards(chain: list[Node], steps: dict[Node, Reach]) -> dict[Node, _Place]:
    places = {chain[0]: _Place(Fraction(1), Fraction(0))}
    for node in chain[1:]:
        step = steps[node]
        sources = [places[source] for source in _read(node, places)]
        if len({source.pitch for source in sources}) != 1:
            raise NetworkError(f"{node.target} ({where(node)}) joins feature maps of different resolutions")
        source = sources[0]
        places[node] = _Place(source.pitch * step.ratio, source.origin + source.pitch * step.shift)
    return places


def _backwards(chain: list[Node], steps: dict[Node, Reach], period: int) -> dict[Node, tuple[int, int]]:
    needed = {chain[-1]: (0, period - 1)}
    for node in reversed(chain[1:]):
        low, high = steps[node].needs(*needed[node])
        for source in _read(node, steps):
            old = needed.get(source, (low, high))
            needed[source] = min(old[0], low), max(old[1], high)
    return needed


def _minimum(chain: list[Node], steps: dict[Node, Reach], places: dict[Node, _Place], axis: int, side: int) -> int:
    """The smallest input side at which every operation's input is long enough."""
    smallest = 1
    for node in chain[1:]:
        for source in _read(node, places):
            # Sides are linear in the input's: side / pitch + extra.
            pitch = places[source].pitch
            extra = shape_of(source)[axis - 2] - floor(side / pitch)
            smallest = max(smallest, ceil((steps[node].smallest - extra) * pitch))
    return smallest


def _between(recording: Recording) -> list[Node]:
    """The nodes on a path from the image to the result, in the order they run."""
    graph, image, result = recording.graph, recording.image, recording.result
    forward: set[Node] = {image}
    for node in graph.nodes:
        if node.op == "call_function" and any(source in forward for source in node.all_input_nodes):
            forward.add(node)
    backward: set[Node] = {result}
    for node in reversed(graph.nodes):
        if node in backward:
            backward.update(node.all_input_nodes)
    if result not in forward:
        raise NetworkError("the network's output does not depend on its input")
    return [node for node in graph.nodes if node in forward and node in backward]


def _read(node: Node, known: Iterable[Node]) -> list[Node]:
    """What a node reads of the image: its inputs without weights. A weight made from the image cannot be tiled."""
    tracked = set(known)
    sources = [source for source in node.all_input_nodes if source in tracked]
    if operation(node) in ("conv2d", "conv_transpose2d", "convolution") and arguments(node)["weight"] in tracked:
        raise NetworkError(
            f"the weights of {node.target} ({where(node)}) depend on the image; such a network cannot be tiled"
        )
    return sources

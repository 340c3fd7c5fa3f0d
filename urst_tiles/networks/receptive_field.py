"""Halo, stride, scale and smallest size of a network, derived from its graph.

The graph is recorded once (:mod:`urst_tiles.networks.tracing`) and walked twice.

*Forwards*, each node gets its pitch: input pixels per position. A stride-2 convolution doubles it, a x2 upsampling
halves it.

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
    pitches = _forwards(chain, steps)
    stride = lcm(*(pitch.numerator for pitch in pitches.values()))
    # A side is side / pitch positions, and some more after a pad or fewer before it.
    extra = {node: shape_of(node)[axis - 2] - floor(side / pitch) for node, pitch in pitches.items()}
    scale = 1 / pitches[chain[-1]]
    if extra[chain[-1]] or (side * scale).denominator != 1:
        raise NetworkError(
            f"an input of {side} px gives an output of {shape_of(chain[-1])[axis - 2]} px where {side * scale} were "
            "expected; the output must cover the input exactly: pad what the convolutions take away"
        )
    left = right = Fraction(0)
    for node, (low, high) in _backwards(chain, steps, int(stride * scale)).items():
        # Before the node's first position there is nothing, and after its last, which lies `extra` positions later.
        left = max(left, -low * pitches[node])
        right = max(right, (high + 1 - extra[node]) * pitches[node] - stride)
    smallest = [
        (steps[node].smallest - extra[source]) * pitches[source]
        for node in chain[1:]
        for source in _read(node, pitches)
    ]
    return _Axis(left, right, stride, scale, max(1, *(ceil(length) for length in smallest)) if smallest else 1)


def _forwards(chain: list[Node], steps: dict[Node, Reach]) -> dict[Node, Fraction]:
    pitches = {chain[0]: Fraction(1)}
    for node in chain[1:]:
        sources = {pitches[source] for source in _read(node, pitches)}
        if len(sources) != 1:
            raise NetworkError(f"{node.target} ({where(node)}) joins feature maps of different resolutions")
        pitches[node] = sources.pop() * steps[node].ratio
    return pitches


def _backwards(chain: list[Node], steps: dict[Node, Reach], period: int) -> dict[Node, tuple[int, int]]:
    needed = {chain[-1]: (0, period - 1)}
    for node in reversed(chain[1:]):
        low, high = steps[node].needs(*needed[node])
        for source in _read(node, steps):
            old = needed.get(source, (low, high))
            needed[source] = min(old[0], low), max(old[1], high)
    return needed


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

"""What one operation reads to make one output position, along one axis: integers, no pixels.

Every operation a network may use maps to a pair of :class:`Reach`, rows and columns. An operation that is not listed
here cannot be proved to be tileable, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.fx import Node

from urst_tiles.errors import NetworkError
from urst_tiles.networks.tracing import arguments, operation

__all__ = ["POINTWISE", "Reach", "reaches", "shape_of"]


@dataclass(frozen=True, slots=True)
class Reach:
    """Output positions lo … hi need input positions (lo·step + low) // grow … (hi·step + high) // grow."""

    step: int = 1
    # input positions per `grow` output positions
    grow: int = 1
    low: int = 0
    high: int = 0
    smallest: int = 1
    # shortest input side the operation accepts

    def needs(self, lo: int, hi: int) -> tuple[int, int]:
        """The input positions that output positions lo … hi are made from, both ends included."""
        first, last = (lo * self.step + self.low) // self.grow, (hi * self.step + self.high) // self.grow
        return min(first, last), max(first, last)

    @property
    def ratio(self) -> Fraction:
        """Input positions per output position."""
        return Fraction(self.step, self.grow)


POINTWISE = Reach()
Pair = tuple[Reach, Reach]


def reaches(node: Node) -> Pair:
    """(rows, columns) of one node of the graph.

    Raises:
        NetworkError: the operation mixes pixels in a way that cannot be tiled, or is not known.
    """
    name = operation(node)
    if name in _RULES:
        return _RULES[name](node)
    if name in _UNCHANGED or torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return POINTWISE, POINTWISE
    if name in _SAME_SHAPE and shape_of(node) == shape_of(node.all_input_nodes[0]):
        return POINTWISE, POINTWISE
    raise NetworkError(
        f"operation {node.target} ({where(node)}) cannot be tiled: it is not among the operations whose "
        "receptive field is known. Use convolutions, pooling, padding, resizing and pointwise functions"
    )


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's value; of its first tensor where it has several."""
    value = node.meta["val"]
    first = value[0] if isinstance(value, list | tuple) else value
    return tuple(int(side) for side in first.shape)


def where(node: Node) -> str:
    """The module a node belongs to, for messages."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return f"in {stack[-1][0]}" if stack and stack[-1][0] else "in the network's forward"


def _pair(value: Any, default: int = 0) -> tuple[int, int]:
    if value is None or value in ([], ()):
        return default, default
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def _window(kernel: int, stride: int, pad: int, dilation: int) -> Reach:
    """A window of `kernel` positions, `dilation` apart, moved by `stride` over an input padded by `pad`."""
    span = dilation * (kernel - 1)
    return Reach(step=stride, low=-pad, high=span - pad, smallest=max(1, span + 1 - 2 * pad))


def _spread(kernel: int, stride: int, pad: int, dilation: int) -> Reach:
    """The transpose of :func:`_window`: input i writes outputs i·stride - pad … i·stride - pad + span."""
    span = dilation * (kernel - 1)
    return Reach(grow=stride, low=pad - span + stride - 1, high=pad)


def _convolution(node: Node) -> Pair:
    given = arguments(node)
    transposed = given.get("transposed", False) or "transpose" in operation(node)
    make = _spread if transposed else _window
    kernel = shape_of(given["weight"])[-2:]
    strides, dilations = _pair(given["stride"], 1), _pair(given["dilation"], 1)
    padding = given["padding"]
    if padding == "same":
        pads = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilations, strict=True))
    else:
        pads = (0, 0) if padding == "valid" else _pair(padding)
    rows, cols = (make(*axis) for axis in zip(kernel, strides, pads, dilations, strict=True))
    return rows, cols


def _pool(node: Node) -> Pair:
    given = arguments(node)
    kernel = _pair(given["kernel_size"])
    strides = kernel if given["stride"] in (None, [], ()) else _pair(given["stride"])
    dilations = _pair(given.get("dilation"), 1)
    rows, cols = (_window(*axis) for axis in zip(kernel, strides, _pair(given["padding"]), dilations, strict=True))
    return rows, cols


def _pad(node: Node) -> Pair:
    given = arguments(node)
    name, pad = operation(node), list(given["pad"] if "pad" in given else given["padding"])
    mode = given.get("mode", name.split("_")[0])
    if mode == "circular" or any(pad[4:]):
        raise NetworkError(
            f"padding {pad} of mode {mode!r} ({where(node)}) cannot be tiled; use reflect, replicate or constant"
        )
    pad += [0] * (4 - len(pad))

    def axis(before: int, after: int) -> Reach:
        most = max(before, after)
        smallest = most + 1 if mode.startswith("reflect") else max(1, 1 - before - after)
        return Reach(low=-before, high=-before, smallest=smallest)

    return axis(pad[2], pad[3]), axis(pad[0], pad[1])


def _resize(node: Node) -> Pair:
    """Resizing by a whole factor up or down. The factors come from the shapes: that is what was computed."""
    name, source, result = operation(node), shape_of(node.args[0]), shape_of(node)  # type: ignore[arg-type]
    if arguments(node).get("align_corners", False):
        raise NetworkError(
            f"{name} with align_corners=True ({where(node)}) depends on the window's size and cannot be tiled"
        )

    def axis(small: int, large: int) -> Reach:
        ratio = Fraction(small, large)
        n, m = ratio.numerator, ratio.denominator
        if 1 not in (n, m):
            raise NetworkError(f"{name} by {Fraction(m, n)} ({where(node)}) cannot be tiled; resize by a whole factor")
        if "nearest" in name:
            return Reach(step=n, grow=m)
        # Source position of output i is (i + 1/2)·n/m - 1/2: the two positions around it are read.
        return Reach(step=2 * n, grow=2 * m, low=n - m, high=n + m)

    return axis(source[-2], result[-2]), axis(source[-1], result[-1])


def _slice(node: Node) -> Pair:
    given = arguments(node)
    rank = len(shape_of(node))
    axis, start, step = given["dim"] % rank, given["start"] or 0, given["step"]
    if axis < rank - 2:
        return POINTWISE, POINTWISE
    if start < 0:
        raise NetworkError(f"a slice that starts {-start} before the end ({where(node)}) depends on the window's size")
    cut = Reach(step=step, low=start, high=start, smallest=start + 1)
    return (cut, POINTWISE) if axis == rank - 2 else (POINTWISE, cut)


def _channels_only(node: Node) -> Pair:
    """cat, split and chunk: free along the channels, refused along rows and columns."""
    axis = arguments(node)["dim"] % len(shape_of(node))
    if axis != 1:
        raise NetworkError(
            f"{node.target} along axis {axis} ({where(node)}) cannot be tiled; only channels (axis 1) can"
        )
    return POINTWISE, POINTWISE


def _batch_norm(node: Node) -> Pair:
    if arguments(node).get("training", False):
        raise NetworkError(
            f"batch norm in training mode ({where(node)}) takes statistics from the window; call eval() first"
        )
    return POINTWISE, POINTWISE


def _shuffle(node: Node) -> Pair:
    factor = int(arguments(node)["upscale_factor"])
    return Reach(grow=factor), Reach(grow=factor)


def _unshuffle(node: Node) -> Pair:
    factor = int(arguments(node)["downscale_factor"])
    reach = _window(factor, factor, 0, 1)
    return reach, reach


_RULES: dict[str, Callable[[Node], Pair]] = {
    **dict.fromkeys(("conv2d", "conv_transpose2d", "convolution"), _convolution),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(("pad", "reflection_pad2d", "replication_pad2d", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d"), _resize),
    **dict.fromkeys(("cat", "split", "split_with_sizes", "chunk"), _channels_only),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    "slice": _slice,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
}

# Instance norms count as pointwise because freezing gives them constant statistics.
_UNCHANGED = frozenset(
    [
        "instance_norm",
        "prelu",
        "_prelu_kernel",
        "hardswish",
        "hardswish_",
        "dropout",
        "feature_dropout",
        "alias",
        "clone",
        "contiguous",
        "detach",
        "detach_",
        "lift_fresh_copy",
        "to",
        "_to_copy",
        "getitem",
        "channel_shuffle",
    ]
)
_SAME_SHAPE = frozenset({"view", "reshape", "_unsafe_view", "expand"})

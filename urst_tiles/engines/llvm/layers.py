"""Layers that write their result where they are told to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from urst_tiles.engines.llvm.convolution import Convolution
from urst_tiles.engines.llvm.maps import Map, Padding, fill_margin
from urst_tiles.engines.llvm.workshop import Workshop, in_turn
from urst_tiles.networks.normalization import Leaf

__all__ = [
    "Convolved",
    "Doubled",
    "Interleaved",
    "Interpolated",
    "Padded",
    "Pooled",
    "Scaled",
    "Shuffled",
    "Writing",
    "is_channels_last",
    "is_middle",
]


class Writing(Leaf):
    """(N, C, H, W), one or more → (N, C', H', W'), float32 on a CPU, channels last."""

    def forward(self, *images: Tensor) -> Tensor:
        return self.write(torch.empty(self.shape(images[0])), *images)

    @abstractmethod
    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        """(N, H', W', C') of the result for (N, C, H, W)."""

    def write(self, result: Tensor, *images: Tensor) -> Tensor:
        """Into (N, H', W', C'), in one piece; the same, seen as (N, C', H', W')."""
        self._write(result, _channels_last(images[0]), *(_middle(image) for image in images[1:]))
        return result.permute(0, 3, 1, 2)

    def bound(self, result: Tensor, *images: Tensor) -> Callable[[], None] | None:
        """:meth:`write` of whatever stands in these images then; None: not without a copy of one of them."""
        if not is_channels_last(images[0]) or not all(is_middle(image) for image in images[1:]):
            return None
        return self._bound(result, *(image.permute(0, 2, 3, 1) for image in images))

    def _bound(self, result: Tensor, *images: Tensor) -> Callable[[], None]:
        """:meth:`_write` of whatever stands in these images then."""
        return partial(self._write, result, *images)

    @abstractmethod
    def _write(self, result: Tensor, *images: Tensor) -> None:
        """All of them (N, H, W, C), in one piece; those after the first may be the middle of one."""


class Convolved(Writing):
    """A convolution of ours [with a residual].

    Attributes:
        convolution: what is computed.
    """

    def __init__(self, convolution: Convolution, workshop: Workshop) -> None:
        super().__init__()
        self.convolution = convolution
        self._workshop = workshop

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, _, height, width = image.shape
        return (count, *self.convolution.sides(height, width), self.convolution.depth)

    def _write(self, result: Tensor, *images: Tensor) -> None:
        self._bound(result, *images)()

    def _bound(self, result: Tensor, *images: Tensor) -> Callable[[], None]:
        steps = []
        for index in range(len(result)):
            image, *more = (_numbers(each[index]) for each in images)
            steps.append(self.convolution.bound(image, _numbers(result[index]), self._workshop, *more))
        return steps[0] if len(steps) == 1 else partial(in_turn, steps)


class Padded(Writing):
    """What PyTorch's pads give."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding = padding

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return (count, *self.padding.around(height, width), depth)

    def _write(self, result: Tensor, *images: Tensor) -> None:
        (image,) = images
        height, width = image.shape[1:3]
        top, left = self.padding.top, self.padding.left
        result[:, top : top + height, left : left + width] = image
        for each in result:
            fill_margin(_numbers(each), self.padding)


class Doubled(Writing):
    """Each pixel repeated, twice as high and wide."""

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return count, 2 * height, 2 * width, depth

    def _write(self, result: Tensor, *images: Tensor) -> None:
        for row in (0, 1):
            for col in (0, 1):
                result[:, row::2, col::2] = images[0]


class Interpolated(Doubled):
    """Twice as high and wide, as PyTorch interpolates bilinearly."""

    def _write(self, result: Tensor, *images: Tensor) -> None:
        sides = list(result.shape[1:3])
        seen, into = (each.permute(0, 3, 1, 2) for each in (images[0], result))
        torch.ops.aten.upsample_bilinear2d.out(seen, sides, False, 2.0, 2.0, out=into)  # noqa: FBT003


class Shuffled(Writing):
    """What PyTorch's pixel_shuffle gives by steps of 2."""

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return count, 2 * height, 2 * width, depth // 4

    def _write(self, result: Tensor, *images: Tensor) -> None:
        count, height, width, depth = images[0].shape
        quads = images[0].view(count, height, width, depth // 4, 2, 2)
        result.view(count, height, 2, width, 2, depth // 4).copy_(quads.permute(0, 1, 4, 2, 5, 3))


class Interleaved(Writing):
    """What :class:`~urst_tiles.networks.phases.Interleave` gives."""

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return count, 2 * (height - 1), 2 * (width - 1), depth // 4

    def _write(self, result: Tensor, *images: Tensor) -> None:
        high, wide = images[0].shape[1] - 1, images[0].shape[2] - 1
        for phase, part in enumerate(images[0].chunk(4, dim=3)):
            row, col = 1 - phase // 2, 1 - phase % 2
            result[:, row::2, col::2] = part[:, row : high + row, col : wide + col]


class Pooled(Writing):
    """The largest of each 2 x 2; of odd sides, without the last ones."""

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return count, height // 2, width // 2, depth

    def _write(self, result: Tensor, *images: Tensor) -> None:
        high, wide = result.shape[1:3]
        first, *others = (images[0][:, row::2, col::2][:, :high, :wide] for row in (0, 1) for col in (0, 1))
        torch.maximum(first, others[0], out=result)
        for other in others[1:]:
            torch.maximum(result, other, out=result)


class Scaled(Writing):
    """A scale and a shift per channel [→ ReLU]."""

    def __init__(self, scale: Tensor, shift: Tensor, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self._relu = relu

    def shape(self, image: Tensor) -> tuple[int, int, int, int]:
        count, depth, height, width = image.shape
        return count, height, width, depth

    def _write(self, result: Tensor, *images: Tensor) -> None:
        torch.addcmul(cast("Tensor", self.shift), images[0], cast("Tensor", self.scale), out=result)
        if self._relu:
            result.relu_()


def is_channels_last(image: Tensor) -> bool:
    """Whether (N, C, H, W) is in one piece, channels last."""
    return image.permute(0, 2, 3, 1).is_contiguous()


def _channels_last(image: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C) in one piece; what is channels last already is not copied."""
    return image.permute(0, 2, 3, 1).contiguous()


def is_middle(image: Tensor) -> bool:
    """Whether each line of (N, C, H, W) is in one piece, channels last: it may be the middle of a map that is so."""
    return image.stride()[1] == 1 and image.stride()[3] == image.shape[1]


def _middle(image: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C), each line in one piece; what is so already is not copied."""
    found = image.permute(0, 2, 3, 1)
    return found if is_middle(image) else found.contiguous()


def _numbers(values: Tensor) -> Map:
    return cast("Map", values.numpy())

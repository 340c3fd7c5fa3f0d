"""Normalisation whose statistics are an argument: Thumbnail Instance Normalization and what it becomes when frozen.

Eq. 2 of Chen et al., "Towards Ultra-Resolution Neural Style Transfer via Thumbnail Instance Normalization", AAAI 2022::

    TIN(x, t) = weight (x - mean(t)) / std(t) + bias        mean, std per channel over the thumbnail's feature map

With both known this is a constant scale and shift per channel: :class:`ChannelAffine`.

A network's norm layers are its :class:`torch.nn.InstanceNorm2d` modules and its :class:`Norm` modules. A method with
another kind of norm (a whitening, say) derives from :class:`Norm`; the functions at the end of this file are all that
the rest of the package knows of either.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.moments import Moments

__all__ = [
    "ChannelAffine",
    "Leaf",
    "Norm",
    "ThumbnailInstanceNorm2d",
    "constant_affine",
    "frozen_norm",
    "is_norm",
    "measure",
    "neutral_moments",
    "observe",
    "reference_norm",
    "thumbnail_instance_norm",
]


def thumbnail_instance_norm(
    x: Tensor, mean: Tensor, std: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Eq. 2 of the paper, written as it stands there.

    ``x`` is (N, C, H, W); the rest are (C,). The published code takes the deviation from the unbiased
    variance; here it is whatever the caller gives, and the callers follow what the weights were trained with.
    """
    y = (x - mean[:, None, None]) / std[:, None, None]
    if weight is not None:
        y = y * weight[:, None, None]
    return y if bias is None else y + bias[:, None, None]


class Leaf(nn.Module):
    """A layer that a graph shows as one operation. Its result is a tensor of its own."""


class Norm(Leaf):
    """A layer whose result depends on statistics of the picture it sees, other than an instance norm.

    Frozen, it must be a constant map of each pixel's channels: a :class:`ChannelAffine` or a 1x1 convolution.
    """

    def observe(self, x: Tensor) -> Tensor:
        """The feature map that is measured, (N, C', H', W'): ``x`` itself unless a norm looks at more than that."""
        return x

    def measure(self, observed: Tensor) -> Moments:
        """Statistics of (a part of) the observed map; those of parts combine into those of the whole."""
        return Moments.of(observed)

    def neutral(self) -> Moments:
        """Statistics that fit, invented: the shape of the frozen network without a thumbnail."""
        raise NotImplementedError

    def frozen(self, moments: Moments) -> ChannelAffine | nn.Conv2d:
        """What this layer is with these statistics. Computed in float64 and returned so, on the CPU."""
        raise NotImplementedError

    def reference(self, moments: Moments) -> nn.Module:
        """The same, computed step by step as the paper writes it: what freezing is tested against."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """With the statistics of ``x`` itself, a batch of one."""
        y: Tensor = self.frozen(self.measure(self.observe(x))).to(x)(x)
        return y


class ThumbnailInstanceNorm2d(Leaf):
    """An instance norm that normalises with the given moments instead of the input's own.

    std = sqrt(variance + eps) with the biased variance, as :class:`torch.nn.InstanceNorm2d` has it.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, moments: Moments, *, eps: float = 1e-5, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(moments.mean))
        self.register_buffer("std", torch.tensor(moments.variance).add(eps).sqrt())
        self.register_buffer("weight", None if weight is None else weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return thumbnail_instance_norm(x, self.mean, self.std, self.weight, self.bias)


class ChannelAffine(Leaf):
    """A scale and a shift per channel: (N, C, H, W) → the same shape.

    Networks use it for their value ranges on the way in and out, so that freezing can fold it into the nearest
    convolution.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        if scale.ndim != 1 or scale.shape != shift.shape:
            raise NetworkError(f"scale and shift must be (C,), not {tuple(scale.shape)} and {tuple(shift.shape)}")
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        # One pass and one new tensor; x * scale + shift would make two.
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.scale.numel()} channels"


def is_norm(module: nn.Module) -> bool:
    """Whether this layer takes statistics from the image it sees, and so needs the thumbnail's."""
    if isinstance(module, Norm):
        return True
    return isinstance(module, nn.InstanceNorm2d) and not (
        module.track_running_stats and module.running_mean is not None
    )


def observe(norm: nn.Module, x: Tensor) -> Tensor:
    """The feature map whose statistics a norm layer takes when it is given ``x``."""
    return norm.observe(x) if isinstance(norm, Norm) else x


def measure(norm: nn.Module, observed: Tensor) -> Moments:
    """The statistics that a norm layer takes of a feature map."""
    return norm.measure(observed) if isinstance(norm, Norm) else Moments.of(observed)


def neutral_moments(norm: nn.Module) -> Moments:
    """Invented statistics that fit a norm layer: mean 0, variance 1."""
    if isinstance(norm, Norm):
        return norm.neutral()
    channels = int(norm.num_features)  # type: ignore[arg-type]
    return Moments(1, np.zeros(channels), np.ones(channels))


def frozen_norm(norm: nn.Module, moments: Moments) -> ChannelAffine | nn.Conv2d:
    """What a norm layer becomes when its statistics are constants. Computed in float64 and returned so."""
    if isinstance(norm, Norm):
        return norm.frozen(moments)
    eps, weight, bias = _parameters(norm, moments)
    std = (torch.tensor(moments.variance) + eps).sqrt()
    mean = torch.tensor(moments.mean)
    scale = std.reciprocal() if weight is None else weight.double() / std
    shift = -mean * scale if bias is None else bias.double() - mean * scale
    return ChannelAffine(scale, shift)


def reference_norm(norm: nn.Module, moments: Moments) -> nn.Module:
    """The same layer, unfrozen, with its statistics given: what freezing is tested against."""
    if isinstance(norm, Norm):
        return norm.reference(moments)
    eps, weight, bias = _parameters(norm, moments)
    return ThumbnailInstanceNorm2d(moments, eps=eps, weight=weight, bias=bias)


def constant_affine(module: nn.Module) -> ChannelAffine | None:
    """Norms that need no thumbnail because they carry running statistics: their scale and shift, or None for other
    layers.
    """
    if not isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) or is_norm(module):
        return None
    if module.running_mean is None or module.running_var is None:
        raise NetworkError(
            f"{module} without running statistics takes them from the whole batch; use InstanceNorm2d instead"
        )
    std = (module.running_var.double() + module.eps).sqrt()
    scale = std.reciprocal() if module.weight is None else module.weight.double() / std
    shift = -module.running_mean.double() * scale
    return ChannelAffine(scale, shift if module.bias is None else module.bias.double() + shift)


def _parameters(norm: nn.Module, moments: Moments) -> tuple[float, Tensor | None, Tensor | None]:
    if not isinstance(norm, nn.InstanceNorm2d) or not is_norm(norm):
        raise NetworkError(f"{type(norm).__name__} is not a norm layer that takes statistics")
    if len(moments.mean) != norm.num_features:
        raise NetworkError(f"a norm of {norm.num_features} channels was given moments of {len(moments.mean)}")
    # Copies on the CPU: the frozen network is built there, wherever this one lives.
    weight = None if norm.weight is None else norm.weight.detach().cpu()
    bias = None if norm.bias is None else norm.bias.detach().cpu()
    return norm.eps, weight, bias

"""Normalisation whose statistics are an argument: Thumbnail Instance Normalization and what it becomes when frozen.

Eq. 2 of Chen et al., "Towards Ultra-Resolution Neural Style Transfer via Thumbnail Instance Normalization", AAAI 2022::

    TIN(x, t) = weight (x - mean(t)) / std(t) + bias        mean, std per channel over the thumbnail's feature map

With both known this is a constant scale and shift per channel: :class:`ChannelAffine`.

A network's norm layers are its :class:`torch.nn.InstanceNorm2d` modules. A method with another kind of norm (a
whitening, say) adds its class to the three functions at the end of this file and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.moments import Moments

__all__ = [
    "ChannelAffine",
    "Leaf",
    "ThumbnailInstanceNorm2d",
    "constant_affine",
    "frozen_norm",
    "is_norm",
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
    return isinstance(module, nn.InstanceNorm2d) and not (
        module.track_running_stats and module.running_mean is not None
    )


def frozen_norm(norm: nn.Module, moments: Moments) -> ChannelAffine:
    """What a norm layer becomes when its statistics are constants. Computed in float64 and returned so."""
    eps, weight, bias = _parameters(norm, moments)
    std = (torch.tensor(moments.variance) + eps).sqrt()
    mean = torch.tensor(moments.mean)
    scale = std.reciprocal() if weight is None else weight.double() / std
    shift = -mean * scale if bias is None else bias.double() - mean * scale
    return ChannelAffine(scale, shift)


def reference_norm(norm: nn.Module, moments: Moments) -> ThumbnailInstanceNorm2d:
    """The same layer, unfrozen, with its statistics given: what freezing is tested against."""
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

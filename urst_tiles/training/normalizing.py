"""Thumbnail statistics while training: collect them in one pass, normalise another pass with them.

The same Eq. 2 that a frozen network is made of (see :mod:`urst_tiles.networks.normalization`), for a batch in which
every image has a thumbnail of its own, and with gradients: they flow through what is normalised, never into statistics
that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.normalization import is_norm

__all__ = ["BatchMoments", "collecting", "normalizing_with"]


@dataclass(frozen=True, slots=True, eq=False)
class BatchMoments:
    """Of one norm layer's input, per image and channel. float32."""

    mean: Tensor
    # (N, C, 1, 1)
    variance: Tensor
    # (N, C, 1, 1), biased, as nn.InstanceNorm2d has it

    @classmethod
    def of(cls, x: Tensor) -> BatchMoments:
        """Of a feature map (N, C, H, W), with its gradient."""
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
        return cls(mean, variance)

    def detach(self) -> BatchMoments:
        return BatchMoments(self.mean.detach(), self.variance.detach())


@contextmanager
def collecting(network: nn.Module) -> Iterator[dict[str, BatchMoments]]:
    """Passes of ``network`` inside this block are ordinary ones, and fill the dictionary: norm layer → detached
    moments of its input."""
    found: dict[str, BatchMoments] = {}

    def normalize(name: str, layer: nn.InstanceNorm2d, x: Tensor) -> Tensor:
        moments = BatchMoments.of(x)
        found[name] = moments.detach()
        return _normalized(layer, x, moments)

    with _standing_in(network, normalize):
        yield found


@contextmanager
def normalizing_with(network: nn.Module, moments: Mapping[str, BatchMoments]) -> Iterator[None]:
    """Passes of ``network`` inside this block normalise with ``moments`` instead of the input's own.

    Raises:
        NetworkError: a norm layer has no moments.
    """
    missing = [name for name, _ in _norms(network) if name not in moments]
    if missing:
        raise NetworkError(f"norm layer {missing[0]} was given no moments")

    def normalize(name: str, layer: nn.InstanceNorm2d, x: Tensor) -> Tensor:
        return _normalized(layer, x, moments[name].detach())

    with _standing_in(network, normalize):
        yield


@contextmanager
def _standing_in(network: nn.Module, normalize: Callable[[str, nn.InstanceNorm2d, Tensor], Tensor]) -> Iterator[None]:
    """Every norm layer computes ``normalize`` for a while.

    A forward hook would leave the layer to compute its own result first, and PyTorch's instance norm copies
    channels-last maps twice: on a CPU that is a third of a step.
    """
    norms = _norms(network)
    for name, layer in norms:
        layer.forward = partial(normalize, name, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for _, layer in norms:
            del layer.forward


def _norms(network: nn.Module) -> list[tuple[str, nn.InstanceNorm2d]]:
    return [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.InstanceNorm2d) and is_norm(layer)
    ]


def _normalized(layer: nn.InstanceNorm2d, x: Tensor, moments: BatchMoments) -> Tensor:
    scale = (moments.variance + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight[None, :, None, None]
    shift = -moments.mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias[None, :, None, None]
    return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

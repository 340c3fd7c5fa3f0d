"""Moments and statistics: values that can be combined, saved, loaded and passed as arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from urst_tiles.errors import InputError

__all__ = ["DEGENERATE_VARIANCE", "Covariance", "Moments", "Statistics"]

DEGENERATE_VARIANCE = 1e-5
"""The eps of an instance norm: below it, the deviation is made of eps and no longer of the thumbnail."""

_CHUNK = 1 << 21
"""Elements turned into float64 at a time: 16 MiB."""

_FORMAT = "urst_tiles.statistics"
_VERSION = "1"


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and spread of each channel. Two of them combine into that of all pixels together."""

    count: int
    # pixels per channel
    mean: NDArray[np.float64]
    # (channels,)
    m2: NDArray[np.float64]
    # (channels,): sum of squared deviations from the mean

    def __post_init__(self) -> None:
        mean, m2 = (np.array(values, dtype=np.float64) for values in (self.mean, self.m2))
        if self.count < 1 or mean.ndim != 1 or mean.shape != m2.shape:
            raise InputError(f"moments of {self.count} pixels with mean {mean.shape} and m2 {m2.shape} make no sense")
        for name, values in (("mean", mean), ("m2", m2)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @classmethod
    def of(cls, x: Tensor | NDArray[Any]) -> Self:
        """Of a feature map (N, C, H, W), any floating type. Summed in float64, two passes over some rows at a time,
        whose moments are combined."""
        x = torch.as_tensor(x)
        if x.ndim != 4 or not x.numel():
            raise InputError(f"moments are of a feature map (N, C, H, W) that is not empty, not of {tuple(x.shape)}")
        channels, width = x.shape[1], x.shape[3]
        rows = max(1, _CHUNK // (channels * width))
        room = torch.empty(min(rows, x.shape[2]) * width, channels, dtype=torch.float64, device=x.device)
        parts = (
            _moments(room[: part.shape[0] * width], part)
            for image in x.permute(0, 2, 3, 1)
            for part in torch.split(image, rows)
        )
        moments = reduce(Moments.combine, parts)
        return cls(moments.count, moments.mean, moments.m2)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Biased, as nn.InstanceNorm2d has it: (channels,)."""
        return self.m2 / self.count

    def combine(self, other: Moments) -> Moments:
        """Moments of both sets of pixels together (Chan, Golub, LeVeque 1983, eq. 2.1)."""
        if self.mean.shape != other.mean.shape:
            raise InputError(f"moments of {len(self.mean)} and of {len(other.mean)} channels cannot be combined")
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / count
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + delta**2 * (self.count * share))

    __add__ = combine

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What is saved beside the count, by name."""
        return {"mean": self.mean, "m2": self.m2}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moments) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())

    def _bytes(self) -> bytes:
        values = b"".join(array.astype("<f8").tobytes() for array in self.arrays().values())
        return self.count.to_bytes(8, "little") + values


@dataclass(frozen=True, slots=True, eq=False)
class Covariance(Moments):
    """Count, mean and spread of channels, and how each two of them vary together."""

    comoment: NDArray[np.float64]
    # (channels, channels): sum of products of deviations from the mean; its diagonal is m2

    def __post_init__(self) -> None:
        # Not super(): slots make a new class, which the zero-argument form does not know.
        Moments.__post_init__(self)
        comoment = np.array(self.comoment, dtype=np.float64)
        if comoment.shape != (len(self.mean), len(self.mean)):
            raise InputError(f"a covariance of {len(self.mean)} channels cannot have shape {comoment.shape}")
        comoment.flags.writeable = False
        object.__setattr__(self, "comoment", comoment)

    @classmethod
    def of(cls, x: Tensor | NDArray[Any]) -> Self:
        """Of a feature map (N, C, H, W), any floating type. Summed in float64, two passes, some pixels at a time."""
        x = torch.as_tensor(x)
        mean = torch.tensor(Moments.of(x).mean, device=x.device)
        channels, count = x.shape[1], x.numel() // x.shape[1]
        comoment = torch.zeros(channels, channels, dtype=torch.float64, device=x.device)
        # Some rows at a time: a map that is channels last would be copied as a whole by a reshape.
        for rows in torch.split(x, max(1, _CHUNK // (channels * x.shape[3])), dim=2):
            for part in rows:
                deviation = part.reshape(channels, -1).double() - mean[:, None]
                comoment.addmm_(deviation, deviation.T)
        comoment = (comoment + comoment.T) / 2
        return cls(count, mean.cpu().numpy(), comoment.diagonal().cpu().numpy(), comoment.cpu().numpy())

    def combine(self, other: Moments) -> Covariance:
        """Of both sets of pixels together (Chan, Golub, LeVeque 1983, eq. 2.1, for products)."""
        if not isinstance(other, Covariance):
            raise InputError("a covariance can only be combined with another one")
        both = Moments.combine(self, other)
        delta = other.mean - self.mean
        share = self.count * other.count / both.count
        comoment = self.comoment + other.comoment + np.outer(delta, delta) * share
        return Covariance(both.count, both.mean, both.m2, comoment)

    __add__ = combine

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        return {**Moments.arrays(self), "comoment": self.comoment}


@dataclass(frozen=True, slots=True)
class Statistics(Mapping[str, Moments]):
    """Moments of every norm layer of a network, by the layer's name, in the order the layers run.

    A few kilobytes; where layers need covariances, a few megabytes.
    """

    layers: Mapping[str, Moments]
    thumbnail: tuple[int, int] | None = field(default=None, compare=False)
    # (width, height) of what they were collected from, in pixels; None where it was not one thumbnail

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", dict(self.layers))

    def __getitem__(self, layer: str) -> Moments:
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __hash__(self) -> int:
        return hash(tuple(self.layers.items()))

    @property
    def degenerate(self) -> tuple[str, ...]:
        """Layers whose statistics say nothing, because most channels do not vary: a blank thumbnail.

        Their deviation is √eps, about 0.003, so that each amplifies whatever a window holds 316 times. The output stays
        finite, but it is not the style: tell the user. Channels that are always 0 are usual where features are whitened
        after a ReLU, and are not amplified there: such a layer counts only when none of its channels varies.
        """
        return tuple(name for name, moments in self.layers.items() if _is_degenerate(moments))

    def combine(self, other: Statistics) -> Statistics:
        """Statistics of both images together, as if each layer had seen the pixels of both."""
        if list(self) != list(other):
            raise InputError(f"statistics of {len(self)} and {len(other)} layers of different names cannot be combined")
        return Statistics({name: moments + other[name] for name, moments in self.items()})

    def hash(self) -> str:
        """sha256 of names and moments: equal for equal statistics, whatever they were collected from."""
        digest = hashlib.sha256()
        for name, moments in self.items():
            digest.update(name.encode() + b"\0" + moments._bytes())  # noqa: SLF001
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """One safetensors file, the same for equal statistics of the same thumbnail."""
        tensors = {f"{name}.{part}": array for name, m in self.items() for part, array in m.arrays().items()}
        facts = {
            "version": _VERSION,
            "counts": {name: moments.count for name, moments in self.items()},
            "thumbnail": self.thumbnail,
        }
        # One entry: safetensors writes several in no particular order, and equal statistics are to be equal files.
        metadata = {_FORMAT: json.dumps(facts)}
        return to_safetensors(tensors, metadata)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; a reader never sees half of it."""
        path = Path(path)
        unfinished = path.with_name(path.name + ".partial")
        unfinished.write_bytes(self.to_bytes())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"statistics cannot be read from {path}: {error}") from error
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read what :meth:`to_bytes` gave; ``name`` is for messages.

        Raises:
            InputError: it is something else.
        """
        try:
            tensors = from_safetensors(data)
            # A file begins with the length of its header, which is JSON.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = json.loads(header.get("__metadata__", {}).get(_FORMAT, "{}"))
            if facts.get("version") != _VERSION:
                raise InputError(f"{name} holds no statistics of this version; collect them again")
            thumbnail = facts["thumbnail"]
            layers = {layer: _read(tensors, layer, count) for layer, count in facts["counts"].items()}
        except (SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"statistics cannot be read from {name}: {error}") from error
        return cls(layers, tuple(thumbnail) if thumbnail else None)


def _moments(room: Tensor, part: Tensor) -> Moments:
    """Of pixels, (rows, columns, channels); ``room`` is (pixels, channels), float64, and is written over."""
    # Sums as products by ones: PyTorch's own take far longer where channels are innermost.
    count = len(room)
    ones = room.new_ones(count)
    room.view(part.shape).copy_(part)
    mean = torch.mv(room.T, ones) / count
    m2 = torch.mv(room.sub_(mean).square_().T, ones)
    return Moments(count, mean.cpu().numpy(), m2.cpu().numpy())


def _is_degenerate(moments: Moments) -> bool:
    spread = np.max if isinstance(moments, Covariance) else np.median
    return bool(spread(moments.variance) < DEGENERATE_VARIANCE)


def _read(tensors: Mapping[str, NDArray[np.float64]], layer: str, count: int) -> Moments:
    mean, m2 = tensors[f"{layer}.mean"], tensors[f"{layer}.m2"]
    if f"{layer}.comoment" in tensors:
        return Covariance(count, mean, m2, tensors[f"{layer}.comoment"])
    return Moments(count, mean, m2)

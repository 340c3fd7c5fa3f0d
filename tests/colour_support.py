"""ICC profiles made by hand, and what they mean worked out by formula: an oracle that knows no colour library."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@dataclass(frozen=True)
class Space:
    """An RGB space: primaries and white as (x, y), and a curve: a gamma, or sRGB's five numbers."""

    primaries: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    white: tuple[float, float]
    curve: float | tuple[float, ...]

    @property
    def matrix(self) -> Floats:
        """Linear RGB → XYZ at D50."""
        columns = np.stack([_xyz(point) for point in self.primaries], axis=1)
        white = _xyz(self.white)
        adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ D50) / (_BRADFORD @ white)) @ _BRADFORD
        matrix: Floats = adapted @ columns * np.linalg.solve(columns, white)
        return matrix

    @property
    def profile(self) -> bytes:
        """As an ICC profile of version 4."""
        matrix = self.matrix
        tags = {name: _xyz_tag(matrix[:, band]) for band, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve_tag(self.curve))
        return icc(b"RGB ", {b"wtpt": _xyz_tag(D50)} | tags | curves)

    def decoded(self, values: Floats) -> Floats:
        """[0, 1] → linear."""
        if isinstance(self.curve, float):
            return np.asarray(values**self.curve)
        gamma, a, b, c, d = self.curve
        return np.where(values >= d, (a * values + b) ** gamma, values * c)

    def encoded(self, linear: Floats) -> Floats:
        """Linear, clipped to [0, 1] → [0, 1]."""
        linear = np.clip(linear, 0, 1)
        if isinstance(self.curve, float):
            return np.asarray(linear ** (1 / self.curve))
        gamma, a, b, c, d = self.curve
        return np.where(linear >= d * c, (linear ** (1 / gamma) - b) / a, linear / c)

    def to(self, other: Space, values: Floats) -> Floats:
        """(..., 3) in [0, 1] of this space → of the other one."""
        return other.encoded(self.decoded(values) @ (np.linalg.inv(other.matrix) @ self.matrix).T)

    def lab(self, values: Floats) -> Floats:
        """(..., 3) in [0, 1] → CIE Lab at D50."""
        ratio = self.decoded(values) @ self.matrix.T / D50
        root = np.where(ratio > 216 / 24389, np.cbrt(np.maximum(ratio, 0)), (24389 / 27 * ratio + 16) / 116)
        x, y, z = np.moveaxis(root, -1, 0)
        return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


SRGB = Space(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65, _SRGB_CURVE)
P3 = Space(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), D65, _SRGB_CURVE)
ADOBE = Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, 2.19921875)
PROPHOTO = Space(((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), (0.3457, 0.3585), 1.8)


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", {b"wtpt": _xyz_tag(D50), b"kTRC": _curve_tag(gamma)})


def scanner_profile() -> bytes:
    """Of a table that leads to Lab, and none that leads back: all that a scanner needs."""
    corners = [(L, a, b) for L, a, b in np.ndindex(2, 2, 2)]
    lab = [round(255 * (r + g + b) / 3) if band == 0 else 128 for r, g, b in corners for band in range(3)]
    identity = bytes(range(256)) * 3
    unit = b"".join(_fixed(value) for value in np.eye(3).ravel())
    table = b"mft1" + bytes(4) + bytes([3, 3, 2, 0]) + unit + identity + bytes(lab) + identity
    return icc(b"RGB ", {b"wtpt": _xyz_tag(D50), b"A2B0": table}, kind=b"scnr", connection=b"Lab ", version=2)


def icc(
    space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", connection: bytes = b"XYZ ", version: int = 4
) -> bytes:
    """A profile of these tags."""
    text = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text} | tags
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4xI4s4s4s6H4s", start + len(body), version << 24, kind, space, connection, 2024, 1, 1, 0, 0, 0, b"acsp"
    )
    head += bytes(28) + b"".join(_fixed(value) for value in D50)
    return head + bytes(128 - len(head)) + table + body


def _xyz(point: tuple[float, float]) -> Floats:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(value: Any) -> bytes:
    return struct.pack(">i", round(float(value) * 65536))


def _xyz_tag(values: Floats) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(value) for value in values)


def _curve_tag(curve: float | tuple[float, ...]) -> bytes:
    kind, numbers = (0, (curve,)) if isinstance(curve, float) else (3, curve)
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + b"".join(_fixed(number) for number in numbers)

"""Crops for training: cut from photos of any size, with their thumbnails and patches.

Which photo, scale, place and flip a crop has depends on (seed, step) alone, so that a training that stopped goes on
with the same crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.training.folders import PaintingFolder, PhotoFolder, PictureFolder

__all__ = ["Batch", "CropSampler", "PhotoFolder", "StyleSampler"]

FLAT = 0.01
"""Standard deviation of brightness, of 0 to 1, under which a crop is left out.

An instance norm's gradient is 1/sqrt(eps) = 316 on a map that does not vary; over 15 layers it leaves float32.
"""

LARGEST_SCALE = 3.0
"""Photos are seen at most this much smaller than they are."""

_TRIES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops, shrunk, and a patch of each at full size."""

    thumbnail: Tensor
    # (N, 3, crop/2, crop/2) float32 in [0, 1]: the crops shrunk bilinearly
    patch: Tensor
    # (N, 3, crop/2, crop/2) float32 in [0, 1]: cut from the crops
    place: Window
    # of the patch inside the crop, the same in the whole batch, at even pixels
    style: Tensor | None = None
    # (N, 3, crop/2, crop/2) float32 in [0, 1]: crops of paintings, for methods that take any style

    def to(self, device: torch.device) -> Batch:
        style = None if self.style is None else self.style.to(device)
        return Batch(self.thumbnail.to(device), self.patch.to(device), self.place, style)


class CropSampler:
    """Random crops: scale 1 to 3, any place, flipped or not.

    Parameters:
        crop: side in pixels, a multiple of 8.
        noise: standard deviation of the noise added, of values in [0, 1].
        styles: gives each batch its crops of paintings, for methods that take any style.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        *,
        crop: int,
        batch: int,
        seed: int,
        noise: float = 0.0,
        styles: StyleSampler | None = None,
    ) -> None:
        self._photos, self._crop, self._batch, self._seed, self._noise = photos, crop, batch, seed, noise
        self._styles = styles

    def batch(self, step: int) -> Batch:
        """The crops of a step: the same for the same seed, step and pictures.

        Raises:
            InputError: no photo, or no painting, has a crop that is not flat.
        """
        random = np.random.default_rng((self._seed, step))
        crops = torch.cat([_drawn(self._photos, random, self._crop_at) for _ in range(self._batch)])
        if self._noise:
            # Its strength varies, so that smooth photos and grainy ones both are usual.
            level = self._noise * random.random()
            crops = crops + torch.from_numpy(random.standard_normal(crops.shape, dtype=np.float32)) * level
        half = self._crop // 2
        place = Window(2 * int(random.integers(half // 2 + 1)), 2 * int(random.integers(half // 2 + 1)), half, half)
        batch = split(crops.clamp(0, 1), place)
        return batch if self._styles is None else replace(batch, style=self._styles.batch(step))

    def _crop_at(self, pixels: NDArray[np.uint8], where: NDArray[np.float64]) -> Tensor:
        crop = cut(pixels, self._crop, float(where[0]), float(where[1]), float(where[2]))
        return crop.flip(-1) if where[3] < 0.5 else crop


class StyleSampler:
    """Random squares of paintings, as large as their short side, shrunk or enlarged to ``side`` px."""

    def __init__(self, paintings: PaintingFolder, *, side: int, batch: int, seed: int) -> None:
        self._paintings, self._side, self._batch, self._seed = paintings, side, batch, seed

    def batch(self, step: int) -> Tensor:
        """(N, 3, side, side) float32 in [0, 1]: the same for the same seed, step and paintings.

        Raises:
            InputError: no painting has a square that is not flat.
        """
        # Another stream than that of the photos.
        random = np.random.default_rng((self._seed, step, 1))
        return torch.cat([_drawn(self._paintings, random, self._square_at) for _ in range(self._batch)])

    def shown(self, count: int) -> list[Tensor]:
        """The middles of up to ``count`` held-out paintings, or of others where none are held out: (1, 3, side, side)
        each."""
        paintings = self._paintings
        found = (paintings.read(path) for path in (*paintings.held_out, *paintings.paths))
        wanted = min(count, len(paintings.held_out) or len(paintings.paths))
        pictures = (pixels for pixels in found if pixels is not None)
        return [self._square_at(pixels, np.full(4, 0.5)) for _, pixels in zip(range(wanted), pictures, strict=False)]

    def _square_at(self, pixels: NDArray[np.uint8], where: NDArray[np.float64]) -> Tensor:
        short = min(pixels.shape[:2])
        return _scaled(_square(pixels, short, float(where[0]), float(where[1])), self._side)


def _drawn(
    pictures: PictureFolder,
    random: np.random.Generator,
    make: Callable[[NDArray[np.uint8], NDArray[np.float64]], Tensor],
) -> Tensor:
    """``make(pixels, four numbers in [0, 1))`` of a picture drawn at random; what is flat or unreadable is drawn
    again."""
    paths = pictures.paths
    for _ in range(_TRIES):
        path = paths[int(random.integers(len(paths)))]
        where = random.random(4)
        pixels = pictures.read(path)
        if pixels is None:
            continue
        crop = make(pixels, where)
        if float(crop.mean(1).std()) >= FLAT:
            return crop
    raise InputError(
        f"no crop with anything on it was found in {_TRIES} tries; the {pictures.noun}s in {pictures.folder} are blank"
    )


def cut(pixels: NDArray[np.uint8], side: int, scale: float, row: float, col: float) -> Tensor:
    """A square of the picture, shrunk to ``side``: (1, 3, side, side) float32 in [0, 1].

    ``scale``, ``row`` and ``col`` are in [0, 1): how much is shrunk and where the square lies, between the least and
    the most possible. A picture smaller than ``side`` is enlarged.
    """
    short = min(pixels.shape[:2])
    most = max(1.0, min(LARGEST_SCALE, short / side))
    # Evenly in the logarithm: twice as small is as far as twice as large.
    return _scaled(_square(pixels, min(short, round(side * most**scale)), row, col), side)


def _square(pixels: NDArray[np.uint8], length: int, row: float, col: float) -> Tensor:
    """A square of ``length`` px, ``row`` and ``col`` as in :func:`cut`: (1, 3, length, length) in [0, 1]."""
    top, left = int(row * (pixels.shape[0] - length + 1)), int(col * (pixels.shape[1] - length + 1))
    square = torch.from_numpy(pixels[top : top + length, left : left + length].copy())
    return square.permute(2, 0, 1)[None].float() / 255


def _scaled(image: Tensor, side: int) -> Tensor:
    if image.shape[-1] == side:
        return image
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def split(crops: Tensor, place: Window) -> Batch:
    """(N, 3, crop, crop) → thumbnails and the patch at ``place``."""
    thumbnail = functional.interpolate(crops, scale_factor=0.5, mode="bilinear", align_corners=False)
    patch = crops[..., place.row_off : place.row_end, place.col_off : place.col_end]
    return Batch(thumbnail, patch.contiguous(), place)

"""Crops for training: cut from photos of any size, with their thumbnails and patches.

Which photo, scale, place and flip a crop has depends on (seed, step) alone, so that a training that stopped goes on
with the same crops.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from urst_tiles.errors import InputError, UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.sources.pictures import read_rgb

__all__ = ["Batch", "CropSampler", "PhotoFolder"]

FLAT = 0.01
"""Standard deviation of brightness, of 0 to 1, under which a crop is left out.

An instance norm's gradient is 1/sqrt(eps) = 316 on a map that does not vary; over 15 layers it leaves float32.
"""

LARGEST_SCALE = 3.0
"""Photos are seen at most this much smaller than they are."""

_TRIES = 200
_IGNORED = {".txt", ".tsv", ".csv", ".md", ".json", ".xml", ".html", ".py", ".zip", ".yaml", ".yml"}
"""Files that stand beside photos and are none; everything else is tried."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops, shrunk, and a patch of each at full size."""

    thumbnail: Tensor
    # (N, 3, crop/2, crop/2) float32 in [0, 1]: the crops shrunk bilinearly
    patch: Tensor
    # (N, 3, crop/2, crop/2) float32 in [0, 1]: cut from the crops
    place: Window
    # of the patch inside the crop, the same in the whole batch, at even pixels

    def to(self, device: torch.device) -> Batch:
        return Batch(self.thumbnail.to(device), self.patch.to(device), self.place)


class PhotoFolder:
    """The photos of a folder, decoded when first needed and kept while ``memory`` bytes last. Not for several threads
    at once.

    Photos are opened as every other raster is. One that cannot be decoded is left out, with a warning, and counted.

    Parameters:
        folder: searched with its subfolders.
        largest: short side in pixels that larger photos are shrunk to when they are read.
        hold_out: photos kept apart, spread evenly over the sorted names.
        on_skip: told the path and the reason of each photo left out.

    Raises:
        InputError: there is no such folder, no file in it, or nothing left to train on.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        largest: int = 2048,
        memory: int = 1 << 30,
        hold_out: int = 0,
        on_skip: Callable[[Path, str], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        paths = self._files()
        if len(paths) <= hold_out:
            raise InputError(
                f"{self.folder} has {len(paths)} photos, and {hold_out} are to be held out: nothing is left to "
                "train on. Hold out fewer or add photos"
            )
        apart = {int((i + 0.5) * len(paths) / hold_out) for i in range(hold_out)}
        self.held_out = tuple(path for i, path in enumerate(paths) if i in apart)
        self.paths = tuple(path for i, path in enumerate(paths) if i not in apart)
        self._largest, self._memory, self._on_skip = largest, memory, on_skip
        self._kept: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()
        self._skipped: dict[Path, str] = {}

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder; give the folder that the photos for training stand in")
        files = sorted(
            path
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in _IGNORED
        )
        if not files:
            raise InputError(f"{self.folder} holds no photos; put the photos to train on there")
        return files

    @property
    def skipped(self) -> dict[Path, str]:
        """Photos that could not be decoded so far, and why."""
        return dict(self._skipped)

    def read(self, path: Path) -> NDArray[np.uint8] | None:
        """(height, width, 3), or None where the photo cannot be decoded."""
        if path in self._skipped:
            return None
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            pixels = read_rgb(path, self._largest)
        except UrstTilesError as error:
            self._skip(path, str(error))
            return None
        self._kept[path] = pixels
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._memory:
            self._kept.popitem(last=False)
        return pixels

    def _skip(self, path: Path, reason: str) -> None:
        self._skipped[path] = reason
        _log.warning("photo %s is left out: %s", path, reason)
        if self._on_skip is not None:
            self._on_skip(path, reason)
        if len(self._skipped.keys() & set(self.paths)) == len(self.paths):
            raise InputError(
                f"none of the {len(self.paths)} photos in {self.folder} can be decoded; the last one: {reason}"
            )


class CropSampler:
    """Random crops: scale 1 to 3, any place, flipped or not.

    Parameters:
        crop: side in pixels, a multiple of 8.
        noise: standard deviation of the noise added, of values in [0, 1].
    """

    def __init__(self, photos: PhotoFolder, *, crop: int, batch: int, seed: int, noise: float = 0.0) -> None:
        self._photos, self._crop, self._batch, self._seed, self._noise = photos, crop, batch, seed, noise

    def batch(self, step: int) -> Batch:
        """The crops of a step: the same for the same seed, step and photos.

        Raises:
            InputError: no photo has a crop that is not flat.
        """
        random = np.random.default_rng((self._seed, step))
        crops = torch.cat([self._one(random) for _ in range(self._batch)])
        if self._noise:
            # Its strength varies, so that smooth photos and grainy ones both are usual.
            level = self._noise * random.random()
            crops = crops + torch.from_numpy(random.standard_normal(crops.shape, dtype=np.float32)) * level
        half = self._crop // 2
        place = Window(2 * int(random.integers(half // 2 + 1)), 2 * int(random.integers(half // 2 + 1)), half, half)
        return split(crops.clamp(0, 1), place)

    def _one(self, random: np.random.Generator) -> Tensor:
        paths: Sequence[Path] = self._photos.paths
        for _ in range(_TRIES):
            path = paths[int(random.integers(len(paths)))]
            where = random.random(4)
            pixels = self._photos.read(path)
            if pixels is None:
                continue
            crop = cut(pixels, self._crop, float(where[0]), float(where[1]), float(where[2]))
            if float(crop.mean(1).std()) >= FLAT:
                return crop.flip(-1) if where[3] < 0.5 else crop
        raise InputError(
            f"no crop with anything on it was found in {_TRIES} tries; the photos in {self._photos.folder} are blank"
        )


def cut(pixels: NDArray[np.uint8], side: int, scale: float, row: float, col: float) -> Tensor:
    """A square of the picture, shrunk to ``side``: (1, 3, side, side) float32 in [0, 1].

    ``scale``, ``row`` and ``col`` are in [0, 1): how much is shrunk and where the square lies, between the least and
    the most possible. A picture smaller than ``side`` is enlarged.
    """
    short = min(pixels.shape[:2])
    most = max(1.0, min(LARGEST_SCALE, short / side))
    # Evenly in the logarithm: twice as small is as far as twice as large.
    length = min(short, round(side * most**scale))
    top, left = int(row * (pixels.shape[0] - length + 1)), int(col * (pixels.shape[1] - length + 1))
    square = torch.from_numpy(pixels[top : top + length, left : left + length].copy())
    image = square.permute(2, 0, 1)[None].float() / 255
    if length == side:
        return image
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def split(crops: Tensor, place: Window) -> Batch:
    """(N, 3, crop, crop) → thumbnails and the patch at ``place``."""
    thumbnail = functional.interpolate(crops, scale_factor=0.5, mode="bilinear", align_corners=False)
    patch = crops[..., place.row_off : place.row_end, place.col_off : place.col_end]
    return Batch(thumbnail, patch.contiguous(), place)

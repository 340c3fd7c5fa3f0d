"""Pictures of a folder, decoded when first needed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError, UrstTilesError
from urst_tiles.sources.pictures import read_rgb

__all__ = ["PaintingFolder", "PhotoFolder", "PictureFolder"]

_IGNORED = {".txt", ".tsv", ".csv", ".md", ".json", ".xml", ".html", ".py", ".zip", ".yaml", ".yml"}
"""Files that stand beside photos and are none; everything else is tried."""

_log = logging.getLogger(__name__)


class PictureFolder:
    """The pictures of a folder, decoded when first needed and kept while ``memory`` bytes last. Not for several threads
    at once.

    Pictures are opened as every other raster is. One that cannot be decoded is left out, with a warning, and counted.

    Parameters:
        folder: searched with its subfolders.
        largest: short side in pixels that larger pictures are shrunk to when they are read.
        hold_out: pictures kept apart, spread evenly over the sorted names.
        on_skip: told the path and the reason of each picture left out.

    Raises:
        InputError: there is no such folder, no file in it, or nothing left to train on.
    """

    noun = "picture"

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
        hold_out = self._to_hold_out(len(paths), hold_out)
        if len(paths) <= hold_out:
            raise InputError(
                f"{self.folder} has {len(paths)} {self.noun}s, and {hold_out} are to be held out: nothing is left to "
                f"train on. Hold out fewer or add {self.noun}s"
            )
        apart = {int((i + 0.5) * len(paths) / hold_out) for i in range(hold_out)}
        self.held_out = tuple(path for i, path in enumerate(paths) if i in apart)
        self.paths = tuple(path for i, path in enumerate(paths) if i not in apart)
        self._largest, self._memory, self._on_skip = largest, memory, on_skip
        self._kept: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()
        self._skipped: dict[Path, str] = {}

    def _to_hold_out(self, count: int, asked: int) -> int:  # noqa: ARG002
        return asked

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder; give the folder that the {self.noun}s for training stand in")
        files = sorted(
            path
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in _IGNORED
        )
        if not files:
            raise InputError(f"{self.folder} holds no {self.noun}s; put the {self.noun}s to train on there")
        return files

    @property
    def skipped(self) -> dict[Path, str]:
        """Pictures that could not be decoded so far, and why."""
        return dict(self._skipped)

    def read(self, path: Path) -> NDArray[np.uint8] | None:
        """(height, width, 3), or None where the picture cannot be decoded."""
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
        _log.warning("%s %s is left out: %s", self.noun, path, reason)
        if self._on_skip is not None:
            self._on_skip(path, reason)
        if len(self._skipped.keys() & set(self.paths)) == len(self.paths):
            raise InputError(
                f"none of the {len(self.paths)} {self.noun}s in {self.folder} can be decoded; the last one: {reason}"
            )


class PhotoFolder(PictureFolder):
    """Photos to train on."""

    noun = "photo"


class PaintingFolder(PictureFolder):
    """Paintings of arbitrary-style methods: a folder, or one file. At most a quarter is held out."""

    noun = "painting"

    def _to_hold_out(self, count: int, asked: int) -> int:
        return min(asked, count // 4)

    def _files(self) -> list[Path]:
        return [self.folder] if self.folder.is_file() else super()._files()

"""A tiled copy on disk of a raster that can only be decoded from the top: then any window of it can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvips

from urst_tiles.errors import SourceError
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.masked import MaskedSource
from urst_tiles.sources.vips import VipsSource
from urst_tiles.sources.vips_image import why
from urst_tiles.sources.vips_reader import WindowReader
from urst_tiles.sources.vips_values import Opening

__all__ = ["spool", "spool_bytes"]

_TILE = 256
"""Side of the copy's tiles: while it is written, two rows of them are in memory."""


def spool_bytes(source: Source) -> int:
    """Disk that the copy takes, in bytes; 0 for a raster that needs none."""
    info = source.info
    if info.random_access:
        return 0
    if isinstance(source, MaskedSource):
        return spool_bytes(source.raster) + spool_bytes(source.mask)
    across, down = -(-info.width // _TILE), -(-info.height // _TILE)
    # Each tile has an offset and a length of 8 bytes; the rest of the header is small but for the ICC profile.
    return across * down * (_TILE * _TILE * info.bytes_per_pixel + 16) + len(info.icc_profile or b"") + 65536


def spool(source: Source, folder: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None) -> Source:
    """A source with the pixels and facts of ``source`` and with random access; ``source`` itself where it has that.

    The copy is an uncompressed tiled BigTIFF in ``folder``. It gets its name when it is complete; one that is already
    there for the same state of the same file is used again. ``progress`` is called now and then with the pixels
    copied so far; what it raises stops the copying and is raised again. A progressive JPEG or an interlaced PNG is
    held in memory whole by its decoder.

    Raises:
        SourceError: the raster is truncated or damaged, or the copy cannot be written (a full disk).
    """
    if source.info.random_access:
        return source
    if isinstance(source, MaskedSource):
        raster, mask = (spool(part, folder, progress=progress) for part in (source.raster, source.mask))
        return MaskedSource(raster, mask, own=source.own)
    if not isinstance(source, VipsSource):
        raise SourceError(f"{source.name} has no random access, and only raster files can be copied to tiles")
    key = hashlib.sha256(json.dumps([source.path, source.fingerprint()], sort_keys=True).encode()).hexdigest()[:16]
    target = Path(folder) / f"spool-{key}.tif"
    if not _is_complete(target, source.info):
        _write(source, target, progress)
    return _SpooledSource(source, target)


class _SpooledSource(VipsSource):
    """Reads the copy and speaks for the original: its name, its fingerprint, its facts."""

    def __init__(self, original: VipsSource, copy: Path) -> None:
        super().__init__(copy)
        self._original = original
        self._name = original.name
        copied = self._info
        self._info = dataclasses.replace(original.info, random_access=True, tile=copied.tile)
        self._reader = WindowReader(Opening(self.path, original.name, self.facts), self._info, copied.bytes_per_pixel)

    def fingerprint(self) -> dict[str, Any]:
        return self._original.fingerprint()


def _is_complete(target: Path, info: RasterInfo) -> bool:
    if not target.is_file():
        return False
    try:
        found = VipsSource(target).info
    except SourceError:
        return False
    same = (found.width, found.height, found.bands, found.dtype) == (info.width, info.height, info.bands, info.dtype)
    return same and found.random_access and target.stat().st_size >= info.pixels * info.bytes_per_pixel


def _write(source: VipsSource, target: Path, progress: Callable[[int], None] | None) -> None:
    partial = target.with_name(f"{target.stem}.{os.getpid()}.partial.tif")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, partial, progress)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # before the name: a power cut must not leave a named file without its pixels
        partial.replace(target)
    except pyvips.Error as error:
        raise SourceError(f"cannot copy {source.name} to tiles in {target.parent}: {why(error)}") from error
    except OSError as error:
        raise SourceError(f"cannot copy {source.name} to tiles in {target.parent}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(source: VipsSource, partial: Path, progress: Callable[[int], None] | None) -> None:
    # Pixels are copied as they lie in the file, with the orientation tag beside them: turning needs random access.
    image = source.opening.presented("sequential").image.copy()
    # What is embedded in the original may be of colours that the pixels were converted from.
    if source.info.icc_profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", source.info.icc_profile)
    elif "icc-profile-data" in image.get_fields():
        image.remove("icc-profile-data")
    watch = _Watch(image, progress) if progress is not None else None
    try:
        image.tiffsave(
            str(partial), tile=True, tile_width=_TILE, tile_height=_TILE, bigtiff=True, compression="none", keep="icc"
        )
    except pyvips.Error:
        if watch is not None and watch.raised is not None:
            raise watch.raised from None
        raise
    if watch is not None:
        watch.finish(source.info.pixels)


class _Watch:
    """Passes libvips' progress on. An exception cannot pass through libvips: it is kept, and libvips told to stop."""

    def __init__(self, image: Any, progress: Callable[[int], None]) -> None:
        self.raised: BaseException | None = None
        self._progress = progress
        self._done = 0  # pixels, as told last
        image.set_progress(True)
        image.signal_connect("eval", self._hear)

    def _hear(self, image: Any, state: Any) -> None:
        done = int(state.npels)
        if self.raised is not None or done <= self._done:
            return
        self._done = done
        try:
            self._progress(done)
        except BaseException as error:  # noqa: BLE001
            self.raised = error
            image.set_kill(True)

    def finish(self, pixels: int) -> None:
        if self.raised is not None:
            raise self.raised
        if self._done < pixels:
            self._progress(pixels)

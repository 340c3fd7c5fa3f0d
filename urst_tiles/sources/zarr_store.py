"""Zarr arrays and OME-Zarr pictures, on disk or behind any URL that fsspec knows.

Importing this module limits Zarr's concurrency to 4 for the whole process: every thread that reads uses that many.
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import zarr

from urst_tiles.errors import SourceError, reason_of
from urst_tiles.sources.arrays import ArraySource, Stated, chunk_size
from urst_tiles.sources.axes import Layout, layout_of
from urst_tiles.sources.base import chosen_of
from urst_tiles.sources.choice import ALL_OF_IT, Choice
from urst_tiles.sources.ome import GroupFacts, read_group_attributes

__all__ = ["ZarrSource"]

zarr.config.set({"async.concurrency": min(4, int(zarr.config.get("async.concurrency")))})

_SLACK_BYTES = 16 << 20
"""What Zarr's event loop and threads take, and the holes that freed chunks leave in the heap."""
_NOTHING = GroupFacts()


class ZarrSource(ArraySource):
    """A Zarr array (v2 or v3), or a group that holds a picture as OME-Zarr 0.4 or 0.5.

    Args:
        store: a folder, a URL such as ``s3://bucket/key.zarr``, or an open ``zarr.Array`` or ``zarr.Group``.
        choice: its ``axes`` have one letter an axis; by default they come from the metadata, else from the shape where
            it leaves no doubt. ``level`` is the place in the group's list of datasets.

    Raises:
        SourceError: there is no such store, or it holds no picture that can be read.
    """

    def __init__(self, store: Any, choice: Choice = ALL_OF_IT) -> None:
        self._name = _name(store)
        node = _open(store, self._name)
        arrays, facts = _arrays(node, self._name)
        named = facts.multiscales.axes if facts.multiscales else None
        shape = tuple(int(length) for length in arrays[0].shape)
        layout = layout_of(shape, choice.axes or named or _dimension_names(arrays[0]), self._name)
        stated = Stated(
            alpha=facts.alpha,
            range=facts.range_of(choice.channels),
            icc_profile=facts.icc_profile,
            resolutions=facts.resolutions,
            channel_names=facts.channel_names,
        )
        self._settle(_smaller_copies(arrays, layout, self._name), layout, choice, stated, "zarr")

    def fingerprint(self) -> dict[str, Any]:
        """A digest of the metadata and, on disk, when it was last written. Chunks written over in place do not show."""
        full = self._levels[0]
        described = json.dumps(full.metadata.to_dict(), sort_keys=True, default=str)
        facts: dict[str, Any] = {
            "zarr": self._name.rstrip("/").rpartition("/")[2],
            "metadata": hashlib.sha256(described.encode()).hexdigest()[:16],
            **chosen_of(self._info),
        }
        root = getattr(full.store, "root", None)
        if isinstance(root, Path):
            for file in ("zarr.json", ".zarray"):
                path = root / full.path / file
                if path.is_file():
                    facts["modified_ns"] = path.stat().st_mtime_ns
        return facts

    def cache_bytes(self, width: int) -> int:
        """A band of rows and the chunks it is cut out of, and those in decoding at a time, compressed and not."""
        chunk_width, chunk_height = self._info.tile or (width, width)
        decoding = 2 * min(4, int(zarr.config.get("async.concurrency"))) * chunk_width * chunk_height
        return super().cache_bytes(width) + decoding * self._chunk_pixel + _SLACK_BYTES


def _smaller_copies(arrays: tuple[Any, ...], layout: Layout, name: str) -> tuple[Any, ...]:
    """The arrays up to the first that is no smaller copy of the same picture."""
    full = arrays[0]
    for level, (before, array) in enumerate(pairwise(arrays), 1):
        same = array.ndim == full.ndim and array.dtype == full.dtype
        same = same and layout.channels(array.shape) == layout.channels(full.shape)
        if not same or layout.size(tuple(array.shape)) > layout.size(tuple(before.shape)):
            return arrays[:level]
        chunk_size(array, layout, f"level {level} of {name}")
    return arrays


def _name(store: Any) -> str:
    if isinstance(store, str | os.PathLike):
        return os.fspath(store)
    return f"the zarr array {getattr(store, 'store_path', store)}"


def _open(store: Any, name: str) -> Any:
    if not isinstance(store, str | os.PathLike):
        return store
    try:
        path = os.fspath(store)
        # Another process may stand in another folder.
        return zarr.open(store=path if "://" in path else Path(path).absolute(), mode="r")
    # A store behind a URL, or damaged metadata, may raise anything.
    except Exception as error:
        what = f"{type(error).__name__}: {reason_of(error)}"
        raise SourceError(f"cannot open {name} as Zarr: {what}. Give an array or an OME-Zarr group") from error


def _arrays(node: Any, name: str) -> tuple[tuple[Any, ...], GroupFacts]:
    """The picture's arrays, full size first, and what the group says of them."""
    if not isinstance(node, zarr.Group):
        return (node,), _NOTHING
    facts = read_group_attributes(dict(node.attrs), name)
    if facts.multiscales is not None:
        return tuple(_member(node, path, name) for path in facts.multiscales.paths), facts
    if facts.first_series:
        return _arrays(_member(node, "0", name, zarr.Group), f"{name}/0")
    found = list(node.arrays())
    if len(found) == 1:
        return (found[0][1],), facts
    listed = ", ".join(sorted(key for key, _ in found)) or "none"
    raise SourceError(
        f"{name} is a Zarr group without OME metadata; its arrays: {listed}. Give the path of one of them"
    )


def _member(group: Any, path: str, name: str, kind: type = zarr.Array) -> Any:
    try:
        member = group[path]
    except Exception as error:
        what = f"{type(error).__name__}: {reason_of(error)}"
        raise SourceError(f"{name} names {path!r} in its metadata, and it cannot be opened: {what}") from error
    if not isinstance(member, kind):
        raise SourceError(f"{name} names {path!r} in its metadata, which is no {kind.__name__.lower()}")
    return member


def _dimension_names(array: Any) -> str | None:
    """Zarr v3 may name the axes of an array; names that are no single known letters are not used."""
    names = getattr(array.metadata, "dimension_names", None)
    if not names or not all(isinstance(name, str) and name.lower() in ("t", "c", "z", "y", "x") for name in names):
        return None
    return "".join(names)

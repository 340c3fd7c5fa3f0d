"""Where pixels go: a sharded OME-Zarr, its pyramid, and a BigTIFF made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from urst_tiles.errors import InputError
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.bigtiff import bigtiff_bytes, export_bigtiff
from urst_tiles.stores.encoding import write_bytes
from urst_tiles.stores.omezarr import OmeZarrStore
from urst_tiles.stores.pyramid import build_pyramid, pyramid_bytes, pyramid_shards, write_pyramid_shard

__all__ = [
    "OmeZarrStore",
    "Store",
    "StoreLayout",
    "bigtiff_bytes",
    "build_pyramid",
    "export_bigtiff",
    "pyramid_bytes",
    "pyramid_shards",
    "target_kind",
    "write_bytes",
    "write_pyramid_shard",
]

_KINDS: dict[str, Literal["omezarr", "bigtiff"]] = {
    ".zarr": "omezarr",
    ".tif": "bigtiff",
    ".tiff": "bigtiff",
    ".btf": "bigtiff",
}


def target_kind(path: str | Path) -> Literal["omezarr", "bigtiff"]:
    """What a target's suffix asks for.

    Raises:
        InputError: another suffix.
    """
    suffix = Path(str(path).rstrip("/")).suffix.lower()
    if suffix not in _KINDS:
        raise InputError(f"{path} is neither an OME-Zarr nor a TIFF by its name: end it in {', '.join(_KINDS)}")
    return _KINDS[suffix]

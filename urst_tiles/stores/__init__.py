"""Where pixels go: a sharded OME-Zarr, its pyramid, and the formats it is exported to."""

from __future__ import annotations

from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.bigtiff import bigtiff_bytes, export_bigtiff
from urst_tiles.stores.encoding import write_bytes
from urst_tiles.stores.exporter import Exporter, ExportOptions
from urst_tiles.stores.omezarr import OmeZarrStore
from urst_tiles.stores.pyramid import build_pyramid, pyramid_bytes, pyramid_shards, write_pyramid_shard
from urst_tiles.stores.registry import EXPORTERS, check_options, exporter_for

__all__ = [
    "EXPORTERS",
    "ExportOptions",
    "Exporter",
    "OmeZarrStore",
    "Store",
    "StoreLayout",
    "bigtiff_bytes",
    "build_pyramid",
    "check_options",
    "export_bigtiff",
    "exporter_for",
    "pyramid_bytes",
    "pyramid_shards",
    "write_bytes",
    "write_pyramid_shard",
]

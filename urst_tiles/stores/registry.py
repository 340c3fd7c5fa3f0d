"""Every format that a store is exported to, and which one a target's name asks for."""

from __future__ import annotations

from pathlib import Path

from urst_tiles.errors import InputError
from urst_tiles.stores.bigtiff import BIGTIFF, OME_TIFF
from urst_tiles.stores.cog import COG
from urst_tiles.stores.deepzoom import DEEP_ZOOM
from urst_tiles.stores.exporter import Exporter, ExportOptions
from urst_tiles.stores.pictures import JPEG, PNG, WEBP
from urst_tiles.stores.zarr_export import OME_ZARR

__all__ = ["EXPORTERS", "check_options", "exporter_for"]

EXPORTERS: tuple[Exporter, ...] = (OME_ZARR, BIGTIFF, OME_TIFF, COG, DEEP_ZOOM, PNG, JPEG, WEBP)
"""Every format."""


def exporter_for(target: str | Path, kind: str | None = None) -> Exporter:
    """The format of that name, else the one that the target's suffix asks for; the longest suffix that fits decides.

    Raises:
        InputError: there is none.
    """
    if kind is not None:
        found = next((exporter for exporter in EXPORTERS if exporter.name == kind), None)
        if found is None:
            raise InputError(f"there is no format {kind!r}: choose one of {', '.join(e.name for e in EXPORTERS)}")
        return found
    name = str(target).rstrip("/").lower()
    fitting = [(len(suffix), e) for e in EXPORTERS for suffix in e.suffixes if name.endswith(suffix)]
    if not fitting:
        known = ", ".join(suffix for exporter in EXPORTERS for suffix in exporter.suffixes)
        raise InputError(f"{target} names no format: end it in one of {known}")
    return max(fitting, key=lambda pair: pair[0])[1]


def check_options(exporter: Exporter, options: ExportOptions) -> None:
    """
    Raises:
        InputError: an option was given that the format does not know.
    """
    for name in sorted(options.given - exporter.takes):
        takers = ", ".join(other.title for other in EXPORTERS if name in other.takes)
        raise InputError(f"{exporter.title} takes no {name.replace('_', '-')}; it is an option of {takers}")

"""Where a run's target and its state lie: a folder or an object store."""

from __future__ import annotations

import re
from pathlib import Path

from urst_tiles.errors import InputError
from urst_tiles.objects import is_url, without_file_scheme
from urst_tiles.options import Part
from urst_tiles.sites.base import Site
from urst_tiles.sites.bucket import BucketSite
from urst_tiles.sites.local import LocalSite

__all__ = ["BucketSite", "LocalSite", "Site", "open_site"]


def open_site(target: str | Path, part: Part | None, scratch: str | Path | None) -> Site:
    """The site of a target; touches nothing yet.

    Args:
        target: a path or a URL. ``file://`` is a path.
        part: the one that this process is to do; None: all of it.
        scratch: a folder for unpacked rasters; None: beside the target, where that is local.

    Raises:
        InputError: a URL for something else than an OME-Zarr.
    """
    folder = None if scratch is None else Path(scratch)
    if isinstance(target, Path) and re.match("[a-z0-9+.-]{2,}:/", str(target)):
        raise InputError(f"{target} is a URL that went through a path and lost a slash; give it as a string")
    if is_url(target):
        return BucketSite(str(target), part, folder)
    return LocalSite(Path(without_file_scheme(str(target))), part, folder)

"""A result that appears under its name when it is whole, in place of an older one only on request."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from urst_tiles.errors import StoreError
from urst_tiles.stores.base import Store
from urst_tiles.stores.files import PARTIAL, storage_errors, sync_file, sync_folder
from urst_tiles.stores.metadata import level_sizes, shard_grid

__all__ = ["check_free", "put_in_place", "require_shards", "whole_file"]

_REPLACED = ".replaced"
"""Added to the name of what was there while the new one takes its place."""


@contextlib.contextmanager
def whole_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives a temporary name in the same folder; what stands there afterwards is flushed and renamed to the target.

    Raises:
        StoreError: the target is there, its folder is not, or what happens inside fails for the system's reasons.
    """
    with storage_errors(f"cannot write {target}"):
        check_free(target, overwrite=overwrite)
        partial = target.with_name(target.name + PARTIAL)
        try:
            yield partial
            sync_file(partial)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def check_free(target: Path, *, overwrite: bool) -> None:
    """
    Raises:
        StoreError: the target exists and is not to be replaced, or there is no folder to write it to.
    """
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists already. Remove it, choose another name, or ask for it to be overwritten")
    if not target.parent.is_dir():
        raise StoreError(f"cannot write {target}: the folder {target.parent} does not exist. Create it first")


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a folder; what bore the name is removed once the new one has it.

    Raises:
        OSError: it cannot be renamed or removed.
    """
    old = target.with_name(target.name + _REPLACED)
    if old.is_dir():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    sync_folder(target.parent)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def require_shards(store: Store) -> None:
    """
    Raises:
        StoreError: a shard of some level is missing.
    """
    for level in range(len(level_sizes(store.layout))):
        rows, cols = shard_grid(store.layout, level)
        missing = next(((y, x) for y in range(rows) for x in range(cols) if not store.has_shard(level, y, x)), None)
        if missing is not None:
            raise StoreError(
                f"the store is not finished: shard {missing[0]},{missing[1]} of level {level} is missing. "
                "Run the command that writes it again: it goes on where it stopped"
            )

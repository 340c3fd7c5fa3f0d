"""Where a store lies: a folder, or an fsspec URL."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import fsspec
from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from urst_tiles.errors import StoreError
from urst_tiles.stores.files import PARTIAL, sync_folder, sync_tree, write_durably
from urst_tiles.stores.metadata import GROUP_KEY, UNFINISHED

__all__ = ["Folder", "Place", "Url", "place_of"]

_CREATING = ".creating-"


class Place(Protocol):
    """A tree of named bytes. Pickles small."""

    @property
    def name(self) -> str:
        """The path or URL, for messages."""
        ...

    def exists(self) -> bool: ...

    def discard_unfinished(self) -> None:
        """Remove what a killed :meth:`creating` left."""
        ...

    def has(self, key: str) -> bool: ...

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        """Store one whole file; readers see the old one or the new one."""
        ...

    def reader(self) -> ZarrStore:
        """A store for zarr to read from."""
        ...

    def creating(self) -> Any:
        """A context that gives a zarr store to create in; once it is left, what was created stands in this place."""
        ...

    def clean_partials(self) -> None: ...


class Folder:
    """A folder of the local file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        return self._path.exists() or self._path.is_symlink()

    def discard_unfinished(self) -> None:
        parent = self._path.parent
        prefix = self._path.name + _CREATING
        for stale in [entry for entry in parent.iterdir() if entry.name.startswith(prefix)] if parent.is_dir() else []:
            shutil.rmtree(stale)

    def has(self, key: str) -> bool:
        return (self._path / key).is_file()

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        # A straggler of a run that is over must not begin the store anew.
        if not self._path.is_dir():
            raise StoreError(f"{self._path} is gone: another process finished or removed this run")
        write_durably(self._path / key, parts)

    def reader(self) -> ZarrStore:
        return LocalStore(self._path, read_only=True)

    @contextmanager
    def creating(self) -> Iterator[ZarrStore]:
        """Under a temporary name beside the target, renamed into place when all of it is on the disk.

        A kill leaves only the temporary folder, which :meth:`discard_unfinished` removes.
        """
        parent = self._path.parent
        if not parent.is_dir():
            raise StoreError(f"cannot create {self._path}: the folder {parent} does not exist. Create it first")
        temporary = parent / f"{self._path.name}{_CREATING}{uuid.uuid4().hex}"
        try:
            yield LocalStore(temporary)
            sync_tree(temporary)
            temporary.rename(self._path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(parent)

    def clean_partials(self) -> None:
        for path in self._path.glob(f"[0-9]*/**/*{PARTIAL}"):
            path.unlink(missing_ok=True)


class Url:
    """Somewhere that fsspec reaches: an object store, or memory://. A put is whole by the service's own promise."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    @property
    def name(self) -> str:
        return self._url

    def exists(self) -> bool:
        files, root = self._files()
        return bool(files.exists(root))

    def discard_unfinished(self) -> None:
        files, root = self._files()
        try:
            attributes = json.loads(files.cat_file(f"{root}/zarr.json")).get("attributes", {})
        except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
            return
        if attributes == {GROUP_KEY: UNFINISHED}:
            files.rm(root, recursive=True)

    def has(self, key: str) -> bool:
        files, root = self._files()
        return bool(files.exists(f"{root}/{key}"))

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        files, root = self._files()
        files.pipe_file(f"{root}/{key}", b"".join(parts))

    def reader(self) -> ZarrStore:
        return FsspecStore.from_url(self._url, read_only=True)

    @contextmanager
    def creating(self) -> Iterator[ZarrStore]:
        """In place: an object store cannot rename a folder. The group's attributes, written last, make it a store."""
        yield FsspecStore.from_url(self._url)

    def clean_partials(self) -> None:
        """Nothing to do: a put that did not end left nothing."""

    def _files(self) -> tuple[Any, str]:
        # Other processes write here too: a remembered listing would not know their shards.
        files, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        return files, str(root)


def place_of(path: str | Path) -> Place:
    text = str(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return Url(text)
    # Absolute: it may be unpickled by a process that works in another folder.
    return Folder(Path(text).absolute())

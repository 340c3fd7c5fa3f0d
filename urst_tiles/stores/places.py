"""Where a store lies: a folder, or an fsspec URL."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store as ZarrStore
from zarr.storage import FsspecStore, LocalStore

from urst_tiles.errors import StoreError
from urst_tiles.objects import Objects, is_url, without_file_scheme
from urst_tiles.stores.files import PARTIAL, sync_folder, sync_tree, write_durably
from urst_tiles.stores.metadata import GROUP_KEY, UNFINISHED

__all__ = ["ROOT", "UNFINISHED_ROOT", "Folder", "Place", "Url", "place_of"]

ROOT = "zarr.json"
"""What makes a place a Zarr group, and a store."""

UNFINISHED_ROOT = "urst/group.json"
"""Where that stands while a run writes below a URL."""

_CREATING = ".creating-"


class Place(Protocol):
    """A tree of named bytes. Pickles small."""

    @property
    def name(self) -> str:
        """The path or URL, for messages."""
        ...

    def exists(self) -> bool: ...

    def discard_unfinished(self) -> None:
        """Remove what a killed :meth:`create` left."""
        ...

    def root(self) -> bytes:
        """The group's metadata, of a finished or unfinished store.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def has(self, key: str) -> bool: ...

    def keys(self, folder: str) -> Iterator[str]:
        """Every file below a folder, in no particular order."""
        ...

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> None:
        """Store one whole file; readers see the old one or the new one. A part may be gone when the next one is asked
        for."""
        ...

    def reader(self) -> ZarrStore:
        """A store for zarr to read from."""
        ...

    def create(self, documents: Mapping[str, bytes]) -> None:
        """Store the metadata of an empty store, the group's too: all of it stands there or nothing that is a store."""
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

    def root(self) -> bytes:
        return (self._path / ROOT).read_bytes()

    def has(self, key: str) -> bool:
        return (self._path / key).is_file()

    def keys(self, folder: str) -> Iterator[str]:
        for place, _, names in os.walk(self._path / folder):
            inside = Path(place).relative_to(self._path).as_posix()
            yield from (f"{inside}/{name}" for name in names)

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> None:
        # A straggler of a run that is over must not begin the store anew.
        if not self._path.is_dir():
            raise StoreError(f"{self._path} is gone: another process finished or removed this run")
        write_durably(self._path / key, parts)

    def reader(self) -> ZarrStore:
        return LocalStore(self._path, read_only=True)

    def create(self, documents: Mapping[str, bytes]) -> None:
        """Under a temporary name beside the target, renamed into place when all of it is on the disk.

        A kill leaves only the temporary folder, which :meth:`discard_unfinished` removes.
        """
        parent = self._path.parent
        if not parent.is_dir():
            raise StoreError(f"cannot create {self._path}: the folder {parent} does not exist. Create it first")
        temporary = parent / f"{self._path.name}{_CREATING}{uuid.uuid4().hex}"
        try:
            for key, data in documents.items():
                (temporary / key).parent.mkdir(parents=True, exist_ok=True)
                (temporary / key).write_bytes(data)
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
        self._objects = Objects(url)

    @property
    def name(self) -> str:
        return self._objects.url

    def exists(self) -> bool:
        return self._objects.has("")

    def discard_unfinished(self) -> None:
        try:
            attributes = json.loads(self._objects.get(ROOT) or b"{}").get("attributes", {})
        except (ValueError, AttributeError):
            return
        if attributes == {GROUP_KEY: UNFINISHED}:
            self._objects.remove_all()

    def root(self) -> bytes:
        for key in (ROOT, UNFINISHED_ROOT):
            found = self._objects.get(key)
            if found is not None:
                return found
        raise FileNotFoundError(f"there is no {ROOT}")

    def has(self, key: str) -> bool:
        return self._objects.has(key)

    def keys(self, folder: str) -> Iterator[str]:
        return self._objects.keys(folder)

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> None:
        self._objects.put(key, parts)

    def reader(self) -> ZarrStore:
        return FsspecStore.from_url(self.name, read_only=True)

    def create(self, documents: Mapping[str, bytes]) -> None:
        """In place: an object store cannot rename a folder. A mark stands for the group until all arrays are there."""
        mark = {"zarr_format": 3, "node_type": "group", "attributes": {GROUP_KEY: UNFINISHED}}
        self._objects.put(ROOT, [json.dumps(mark).encode()])
        for key in sorted(documents, key=lambda key: key == ROOT):
            self._objects.put(key, [documents[key]])

    def clean_partials(self) -> None:
        """Nothing to do: a put that did not end left nothing."""


def place_of(path: str | Path) -> Place:
    text = str(path)
    if is_url(text):
        return Url(text)
    # Absolute: it may be unpickled by a process that works in another folder.
    return Folder(Path(without_file_scheme(text)).absolute())

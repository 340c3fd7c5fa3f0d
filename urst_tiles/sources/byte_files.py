"""Bytes of a file, here or behind a URL, at any place and from any thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import IO, Any

from urst_tiles.errors import SourceError

__all__ = ["ByteFile"]

_BLOCK = 1 << 18
"""A header behind a URL is read in blocks of this size."""


class ByteFile:
    """A path, or a URL that fsspec knows. It pickles as its name and opens where it is used.

    Raises:
        SourceError: it is not there, or cannot be read at any place.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.remote = "://" in name
        self.path = name if self.remote else str(Path(name).absolute())
        self.__setstate__(self.__getstate__())
        try:
            self.facts = self._facts()
        # A file system behind a URL may raise anything.
        except Exception as error:
            raise SourceError(f"cannot open {name}: {type(error).__name__}: {' '.join(str(error).split())}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None

    def open(self) -> IO[bytes]:
        """A file object of its own."""
        if not self.remote:
            return Path(self.path).open("rb")
        system, path = self._system()
        opened: IO[bytes] = system.open(path, "rb", block_size=_BLOCK)
        return opened

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes.

        Raises:
            ValueError: the file ends before.
        """
        if offset < 0 or count < 0 or offset + count > self.facts["bytes"]:
            raise ValueError("the file is cut off: its header names bytes behind its end")
        if self.remote:
            system, path = self._system()
            found = bytes(system.cat_file(path, start=offset, end=offset + count))
        else:
            with self._lock:
                if self._file is None:
                    self._file = self.open()
                self._file.seek(offset)
                found = self._file.read(count)
        if len(found) != count:
            raise ValueError("the file is cut off")
        return found

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, path = fsspec.core.url_to_fs(self.path)
        return system, path

    def _facts(self) -> dict[str, Any]:
        """For fingerprints: name, size, and what tells one state of the file from another."""
        if not self.remote:
            found = Path(self.path).stat()
            return {"file": Path(self.path).name, "bytes": found.st_size, "modified_ns": found.st_mtime_ns}
        system, path = self._system()
        info = system.info(path)
        if info.get("size") is None:
            raise ValueError(
                "the server does not tell how large it is, so it cannot be read in parts; download it first"
            )
        state = {key: str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in info}
        return {"file": path.rpartition("/")[2], "bytes": int(info["size"]), **state}

"""Objects below an fsspec URL: whole reads, whole writes, lists. No rename, no append, no locks, no folders."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from urst_tiles.errors import InputError

__all__ = ["Objects", "client_errors", "is_url", "without_file_scheme"]

_MAGIC = frozenset("*?[]")
"""What fsspec takes for a pattern of many names, in a removal too."""

_AT_ONCE = 1000
"""Objects asked for in one call: small ones, which are in memory together."""

_OURS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)
"""What callers already know how to tell: the system's errors, and those of bytes that are not what they should be."""


def is_url(place: object) -> bool:
    """Whether a target or a store is a URL; ``file://`` is a path."""
    return isinstance(place, str) and "://" in without_file_scheme(place)


def without_file_scheme(place: str) -> str:
    return place.removeprefix("file://")


@contextlib.contextmanager
def client_errors() -> Iterator[None]:
    """What the client library of an object store raises (botocore's errors are no OSErrors) as an OSError of one line.

    Raises:
        OSError: whatever was raised and is not one of the errors that callers know.
    """
    try:
        yield
    except _OURS:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _advised() -> Iterator[None]:
    """Failures in one line that says what to do; whether something is there is no failure."""
    try:
        with client_errors():
            yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, _AdvisedError):
        raise
    except OSError as error:
        raise _AdvisedError(error) from error


class _AdvisedError(OSError):
    """A failure, in one line that says what to do."""

    def __init__(self, error: OSError) -> None:
        reason = " ".join(str(error.strerror or error).split()) or type(error).__name__
        super().__init__(f"{reason.rstrip('.')}. When that is mended, the same command goes on")


class Objects:
    """Everything below a URL, by keys like "0/c/0/1/2". Connects when first used and pickles as its URL.

    All methods raise OSError, of one line, where the service cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._reached: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.url,)

    def get(self, key: str) -> bytes | None:
        """All of an object; None where there is none."""
        with _advised():
            files, root = self._files()
            try:
                return bytes(files.cat_file(f"{root}/{key}"))
            except FileNotFoundError:
                return None

    def get_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Small objects, many at once; those that are gone are left out."""
        files, root = self._files()
        for start in range(0, len(keys), _AT_ONCE):
            paths = {f"{root}/{key}": key for key in keys[start : start + _AT_ONCE]}
            with _advised():
                found = files.cat(list(paths), on_error="return")
            for path, data in found.items():
                if isinstance(data, FileNotFoundError):
                    continue
                with _advised():
                    if isinstance(data, BaseException):
                        raise data
                yield paths[path], bytes(data)

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> None:
        """Store one object; readers see the old one or the new one, by the service's own promise."""
        # Joined without a second copy, unlike b"".join.
        joined = io.BytesIO()
        joined.writelines(parts)
        with _advised():
            files, root = self._files()
            try:
                files.pipe_file(f"{root}/{key}", joined.getvalue())
            except FileNotFoundError as error:  # no such bucket
                raise _AdvisedError(error) from error

    def create(self, key: str, data: bytes) -> bool:
        """Store an object where there is none; False where there is one.

        Of several at once, one succeeds, where fsspec can say so to the service (S3's If-None-Match, memory://).
        Elsewhere the last of those that begin within the same moment replaces the others.
        """
        if self.has(key):
            return False
        with _advised():
            files, root = self._files()
            try:
                files.pipe_file(f"{root}/{key}", data, mode="create")
            except FileExistsError:
                return False
            except (TypeError, ValueError, NotImplementedError):
                files.pipe_file(f"{root}/{key}", data)
            except OSError:
                # A service may tell the losers of a race in words of its own.
                if not self.has(key):
                    raise
                return False
        return True

    def has(self, key: str) -> bool:
        with _advised():
            files, root = self._files()
            try:
                # Not exists(): it may take any failure for a no.
                files.info(f"{root}/{key}" if key else root)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def names(self, folder: str = "") -> list[str]:
        """The next parts of the keys that begin with ``folder``."""
        with _advised():
            files, root = self._files()
            try:
                found = files.ls(f"{root}/{folder}" if folder else root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})

    def keys(self, folder: str = "") -> Iterator[str]:
        """Every key that begins with ``folder``."""
        with _advised():
            files, root = self._files()
            try:
                found = files.find(f"{root}/{folder}" if folder else root)
            except (FileNotFoundError, NotADirectoryError):
                return
        yield from (str(path)[len(root) + 1 :] for path in found)

    def remove(self, *keys: str) -> None:
        """Remove objects; those that are gone already are none the worse."""
        with _advised():
            files, root = self._files()
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    files.rm_file(f"{root}/{key}")

    def remove_all(self) -> None:
        """Remove every object."""
        with _advised():
            files, root = self._files()
            with contextlib.suppress(FileNotFoundError):
                files.rm(root, recursive=True)

    def check_below_root(self) -> None:
        """
        Raises:
            InputError: fsspec knows no such kind of URL, or it is that of a whole bucket, with all that is in it.
        """
        if "/" not in self._files()[1]:
            raise InputError(f"{self.url} is a whole bucket: name something in it, like {self.url}/result.zarr")

    def _files(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        if self._reached is None:
            import fsspec

            if _MAGIC & set(self.url):
                raise InputError(f"{self.url} is a pattern to fsspec; choose a name without any of * ? [ ]")
            try:
                # Other processes write here too: a remembered listing would not know their objects.
                files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise InputError(f"{self.url} cannot be reached: {' '.join(str(error).split())}") from error
            self._reached = files, str(root).rstrip("/")
        return self._reached

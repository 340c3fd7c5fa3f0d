"""Files that are whole or not there, and errors that say what to do about a disk."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from urst_tiles.errors import StoreError

__all__ = ["PARTIAL", "storage_errors", "sync_file", "sync_folder", "sync_tree", "write_durably"]

PARTIAL = ".partial"
"""Suffix of a file that is being written; after a kill it may stay, and it is never read."""

_FREE = "Free some space and run the same command again: it goes on where it stopped"
_RIGHTS = "Mend the permissions or choose another place"
_ADVICE = {
    errno.ENOSPC: f"the disk is full. {_FREE}",
    errno.EDQUOT: f"the disk quota is used up. {_FREE}",
    errno.EACCES: f"permission denied. {_RIGHTS}",
    errno.EPERM: f"operation not permitted. {_RIGHTS}",
    errno.EROFS: "the file system is read-only. Choose another place",
    errno.EFBIG: "a file grew past what the file system or a limit (ulimit -f) allows. Choose another place",
}
# Not every file system can flush a folder; the data itself has been flushed by then.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into a one-line :class:`StoreError`; ``what`` reads "cannot write x.tif"."""
    try:
        yield
    except OSError as error:
        reason = _ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
        raise StoreError(f"{what}: {reason}") from error


def write_durably(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that is on the disk, whole and under its name, when this returns; until then that name is untouched.
    Each part is written before the next is asked for.

    The data is flushed before the rename: a power cut must not leave a name with nothing behind it. Several processes
    may write the same path at once.

    Raises:
        OSError: it cannot be written; the partial file is removed.
    """
    # Parts may take long to be made: nothing stands there before there is one.
    waiting = iter(parts)
    first = next(waiting, b"")
    _make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(first)
            file.writelines(waiting)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush a folder with everything in it."""
    for folder, _, names in os.walk(root):
        for name in names:
            sync_file(Path(folder) / name)
        sync_folder(Path(folder))


def _make_folder(path: Path) -> None:
    """Like mkdir -p, each new name flushed in the folder that holds it."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)

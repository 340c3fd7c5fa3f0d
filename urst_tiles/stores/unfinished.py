"""A folder that an export fills under a temporary name, and that the same export goes on with after it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from urst_tiles.stores.files import sync_folder, write_durably

__all__ = ["NOTE", "UnfinishedFolder"]

NOTE = "export.json"
"""Name of what the folder says of itself while it is not finished."""

_SUFFIX = ".exporting"


class UnfinishedFolder:
    """The folder ``<target>.exporting``.

    Its note holds what is being written, ``identity``, and how much of it is on the disk, ``done``. Another picture,
    other options or another version of the program begin it anew.
    """

    def __init__(self, target: Path, identity: dict[str, Any]) -> None:
        self.path = target.with_name(target.name + _SUFFIX)
        self._target = target
        self._identity = identity
        self.done = 0

    def enter(self) -> None:
        """Go on with what stands there or begin it.

        Raises:
            OSError: it cannot be read, removed or made.
        """
        self.take_back()
        there = _note(self.path)
        if there is not None and there.get("identity") == self._identity:
            self.done = int(there.get("done", 0))
        else:
            self.clear()
            self.path.mkdir()
            self.mark(0)

    def mark(self, done: int) -> None:
        """``done`` parts are on the disk."""
        note = json.dumps({"identity": self._identity, "done": done}, indent=2) + "\n"
        write_durably(self.path / NOTE, [note.encode()])
        self.done = done

    def take_back(self) -> None:
        """A finished folder got the target's name but still has its note: the rest of its finishing did not happen."""
        if (self._target / NOTE).is_file() and not self.path.exists():
            self._target.rename(self.path)

    def clear(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)

    @staticmethod
    def forget(folder: Path) -> None:
        """Remove the note of a folder that is finished."""
        (folder / NOTE).unlink(missing_ok=True)
        sync_folder(folder)


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("done"), int) else None

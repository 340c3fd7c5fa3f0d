"""Finding a method's weights files: in a folder, or among files given by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from urst_tiles.errors import NetworkError

__all__ = ["WeightFiles"]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that were given, or those of the folder that was."""

    paths: tuple[Path, ...]
    # files, in the order given; of a folder, by name

    @classmethod
    def of(cls, given: str | Path | Sequence[str | Path]) -> WeightFiles:
        """Raises NetworkError where there is no such file or folder, or the folder is empty."""
        paths = [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]
        found: list[Path] = []
        for path in paths:
            if not path.exists():
                raise NetworkError(f"weights {path} cannot be opened: no such file or folder")
            if path.is_dir():
                inside = sorted(entry for entry in path.iterdir() if entry.is_file())
                if not inside:
                    raise NetworkError(f"{path} is an empty folder; give the folder that the weights files stand in")
                found += inside
            else:
                found.append(path)
        if not found:
            raise NetworkError("no weights file was given")
        return cls(tuple(found))

    def single(self) -> Path:
        """The one file of a method that has one.

        Raises:
            NetworkError: there are several.
        """
        if len(self.paths) > 1:
            raise NetworkError(f"one weights file is wanted, {self._names()} were given; name the one to take")
        return self.paths[0]

    def matching(self, pattern: str) -> tuple[Path, ...]:
        """Files whose whole name matches a regular expression, case ignored."""
        return tuple(path for path in self.paths if re.fullmatch(pattern, path.name, re.IGNORECASE))

    def find(self, wanted: Mapping[str, str]) -> dict[str, Path]:
        """A file for each part of a method: part → path, for {part: regular expression of the file's whole name}.

        Raises:
            NetworkError: a part has no file, or several.
        """
        found = {}
        for part, pattern in wanted.items():
            files = self.matching(pattern)
            if len(files) != 1:
                what = "has no file" if not files else f"fits several files ({', '.join(f.name for f in files)})"
                raise NetworkError(
                    f"the {part} {what}: its name must be like {pattern.replace(chr(92), '')}; "
                    f"there are {self._names()}"
                )
            found[part] = files[0]
        return found

    def _names(self) -> str:
        names = [path.name for path in self.paths]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return ", ".join(names[:8]) + more

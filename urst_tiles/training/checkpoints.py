"""A training on disk: everything that the next step depends on, in one file that is replaced as a whole."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from urst_tiles.errors import InputError, RunMismatchError, StoreError

__all__ = ["TrainingState", "load_checkpoint", "save_checkpoint"]

_FORMAT = "urst_tiles.training"
_VERSION = 1
_MAY_DIFFER = {"checkpoint_every", "preview_every", "device"}
"""Settings that do not change what a step computes."""


@dataclass(slots=True)
class TrainingState:
    """What a training is after some steps. Crops and noise need no state: they depend on seed and step."""

    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    config: dict[str, Any]
    facts: dict[str, str]
    # what the losses compare with: hashes of painting, loss network and photo names
    step: int = 0
    # finished ones
    skipped: int = 0
    # steps whose gradient was not finite
    seconds: float = 0.0
    constants: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    # loss term → its value at each finished step

    def check(self, config: dict[str, Any], facts: dict[str, str]) -> None:
        """Raises RunMismatchError where another training is asked for than the one that was saved."""
        # Before there were several methods a checkpoint did not say its own.
        there = {"method": "johnson", **_flat(self.config), **self.facts}
        asked = {"method": "johnson", **_flat(config), **facts}
        if there["method"] != asked["method"]:
            raise RunMismatchError(
                f"the checkpoint belongs to a training of method {there['method']!r}, not {asked['method']!r}. "
                "Ask for the same method to go on, or start anew without --resume"
            )
        differences = [
            f"{name}: {there.get(name)} → {asked.get(name)}"
            for name in sorted(there.keys() | asked.keys())
            if there.get(name) != asked.get(name) and name not in _MAY_DIFFER
        ]
        if differences:
            raise RunMismatchError(
                f"the checkpoint belongs to another training ({'; '.join(differences)}). "
                "Ask for the same settings to go on, or start anew without --resume"
            )


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write ``state``; a reader, or a training that is killed now, finds the old file or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    content = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "version": _VERSION, **content}, buffer)
    unfinished = path.with_name(path.name + ".new")
    try:
        with unfinished.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise StoreError(f"checkpoint {path} cannot be written: {error.strerror or error}") from error


def load_checkpoint(path: Path) -> TrainingState:
    """Read what :func:`save_checkpoint` wrote. No code in the file is run.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be opened: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of a training, or is damaged") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise InputError(f"{path} is no checkpoint of a training of this version")
    return TrainingState(**{name: content[name] for name in TrainingState.__dataclass_fields__})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat

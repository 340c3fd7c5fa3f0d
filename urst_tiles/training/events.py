"""What a training tells its callbacks. Events are values; the library itself never prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CheckpointSaved",
    "PaintingSkipped",
    "PhotoSkipped",
    "PreviewWritten",
    "StepFinished",
    "StepSkipped",
    "TrainingCallback",
    "TrainingEvent",
    "TrainingStarted",
]


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The first step is about to be done."""

    step: int
    # the first to be done; above 0 when a training goes on
    steps: int
    # in all
    photos: int
    held_out: int
    stroke_layer: str
    precision: str
    paintings: int = 1
    held_out_paintings: int = 0
    decoder: str = ""
    # the encoder's level that the decoder begins at, for methods that take any style


@dataclass(frozen=True, slots=True)
class StepFinished:
    """The weights took a step."""

    step: int
    # counted from 1
    steps: int
    losses: Mapping[str, float]
    # by term, weighted
    total: float
    gradient: float
    # its norm before clipping
    rate: float
    # learning rate
    seconds: float


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """A step's gradient was not finite; the weights stay as they were."""

    step: int
    skipped: int
    # in all


@dataclass(frozen=True, slots=True)
class PhotoSkipped:
    """A photo could not be decoded and is left out."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class PaintingSkipped:
    """A painting could not be decoded and is left out."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """The training can go on from here."""

    path: Path
    step: int


@dataclass(frozen=True, slots=True)
class PreviewWritten:
    """A picture of held-out photos stands on disk."""

    path: Path
    step: int


TrainingEvent = (
    TrainingStarted | StepFinished | StepSkipped | PhotoSkipped | PaintingSkipped | CheckpointSaved | PreviewWritten
)
TrainingCallback = Callable[[TrainingEvent], None]

"""What came of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from urst_tiles.styles import StyleCard

__all__ = ["TrainingReport"]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Steps, losses, and where the weights are."""

    weights: Path
    # the safetensors file; where there is a card it stands beside it
    card: StyleCard | None
    # of a style of one painting; None for methods that take any style
    steps: int
    skipped_steps: int
    # whose gradient was not finite
    skipped_photos: int
    # that could not be decoded
    seconds: float
    # in steps, all runs of a resumed training together
    losses: Mapping[str, float]
    # on held-out photos, by term, not weighted; of the training's end where none are held out
    method: str = "johnson"
    skipped_paintings: int = 0
    # that could not be decoded
    decoder: str = ""
    # the encoder's level that the decoder begins at, of methods that take any style
    curve: Mapping[str, list[float]] | None = None
    # the weighted loss as it went: step and total

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "weights": str(self.weights), "losses": dict(self.losses)}

    def text(self) -> str:
        """For people."""
        losses = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        counts = {"steps": self.skipped_steps, "photos": self.skipped_photos, "paintings": self.skipped_paintings}
        skipped = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        style = " --style PAINTING" if self.card is None else ""
        return (
            f"trained    {self.weights} ({self.weights.stat().st_size / 1e6:.2f} MB)\n"
            f"steps      {self.steps} in {self.seconds / 60:.0f} min{'; skipped ' if skipped else ''}{skipped}\n"
            f"losses     {losses}\n"
            f"use it     urst-tiles stylize INPUT OUTPUT --network {self.method} --weights {self.weights}{style}"
        )

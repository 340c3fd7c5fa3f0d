"""What can be chosen about a training: names, defaults and ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

from urst_tiles.errors import InputError

__all__ = ["LossWeights", "TrainedMethod", "TrainingConfig"]

TrainedMethod = Literal["johnson", "adain", "linear-wct"]
"""What can be trained: a network for one painting, or the decoder of a method for any style."""

Schedule = Literal["cosine", "inverse", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each term counts; 0 leaves one out. Johnson's are divided so that each is of the order of 1 for a bad
    picture. AdaIN and LinearWCT have style, content and stroke, as published."""

    style: float = 20.0
    content: float = 1.5
    stroke: float = 1.0
    # λ of the paper
    tone: float = 0.5
    grain: float = 0.3
    light: float = 2.0
    flatness: float = 1.0
    overshoot: float = 10.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"the weight of the {name} term must be a number of at least 0, not {value}")


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The defaults are Johnson's; :meth:`of` gives each method its own. Raises InputError when a value is out of
    range."""

    method: TrainedMethod = "johnson"
    steps: int = 4000
    batch: int = 2
    # crops a step
    crop: int = 512
    # side in pixels of what is cut from a photo; thumbnail and patch have half of it
    style_size: int = 896
    # short side in pixels that the painting is shrunk to: strokes come out as large as they are there. Of methods for
    # any style: what crops of paintings are cut at; these are then shrunk to the thumbnail's side
    style_median: int = 3
    # side in pixels, odd, of a median filter of the scaled painting: takes speckle out of a reproduction; 1: none
    width: int = 16
    # channels of the network at full resolution; the published networks have 32
    blocks: int = 5
    # residual blocks
    weights: LossWeights = field(default_factory=LossWeights)
    stroke_layer: str = "auto"
    # relu4_1, or the loss network's deepest layer where it ends before; of methods for any style the encoder's deepest
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup: int = 50
    # steps in which the learning rate rises from 0
    decay: float = 5e-5
    # of schedule "inverse": rate / (1 + decay · step)
    clip: float = 5.0
    # largest norm of the gradient; inf leaves it as it is
    noise: float = 0.02
    # standard deviation of noise added to crops: flat places need something that strokes can grow from
    hold_out: int = 4
    # photos that are never trained on, for previews and losses
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    # of the arithmetic: "auto" is bfloat16 where the device computes in it; weights stay float32
    checkpoint_every: int = 100
    # steps
    preview_every: int = 100
    # steps; 0: none

    @classmethod
    def of(cls, method: str, **changes: Any) -> Self:
        """The published settings of a method, with changes."""
        if method not in _DEFAULTS:
            raise InputError(f"method {method!r} cannot be trained; there are {', '.join(_DEFAULTS)}")
        return cls(**{"method": method, **_DEFAULTS[method], **changes})

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "crop": 64, "style_size": 64, "style_median": 1, "width": 4, "blocks": 1}
        least |= {"hold_out": 0, "seed": 0, "warmup": 0, "checkpoint_every": 1, "preview_every": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise InputError(f"{name} must be a whole number of at least {smallest}, not {value!r}")
        if self.crop % 8:
            raise InputError(f"crop {self.crop} is no multiple of 8: thumbnail and patch must fit the network's stride")
        if self.style_median % 2 == 0:
            raise InputError(f"style_median must be odd, so that a window has a middle, not {self.style_median}")
        for name in ("learning_rate", "clip", "decay", "noise"):
            if not (name == "clip" and self.clip == math.inf):
                _check_number(name, getattr(self, name), zero=name in ("decay", "noise"))
        choices = {"method": TrainedMethod, "schedule": Schedule, "precision": Precision}
        for name, known in ((name, get_args(choice)) for name, choice in choices.items()):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown; use {', '.join(known)}")

    @property
    def any_style(self) -> bool:
        """Whether the method learns from many paintings and takes its style at run time."""
        return self.method != "johnson"

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels at full, half and quarter resolution."""
        return self.width, 2 * self.width, 4 * self.width

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "inverse":
            return self.learning_rate * warm / (1 + self.decay * step)
        if self.schedule == "cosine":
            # Ends at a hundredth: the last steps average out what single crops pull at.
            share = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            return self.learning_rate * warm * (0.01 + 0.99 * share)
        return self.learning_rate * warm

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_ANY_STYLE: Mapping[str, Any] = {
    "batch": 8,
    "style_size": 512,
    "style_median": 1,
    "learning_rate": 1e-4,
    "schedule": "inverse",
    "warmup": 0,
    "clip": math.inf,
    "noise": 0.0,
    "preview_every": 1000,
}


def _published(style: float) -> LossWeights:
    return LossWeights(
        style=style, content=1.0, stroke=1.0, tone=0.0, grain=0.0, light=0.0, flatness=0.0, overshoot=0.0
    )


_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "johnson": {},
    "adain": {**_ANY_STYLE, "steps": 160_000, "decay": 5e-5, "weights": _published(10.0)},
    "linear-wct": {**_ANY_STYLE, "steps": 100_000, "decay": 1e-5, "weights": _published(0.02)},
}
"""Where a method's settings differ from the fields' own defaults. AAAI 2022, section 4.1, and the code published with
it."""


def _check_number(name: str, value: float, *, zero: bool) -> None:
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise InputError(f"{name} must be a number {'of at least' if zero else 'above'} 0, not {value}")

"""Shipped styles: trained weights, each with a card that says what it is and where it comes from.

A style is two files in one folder: ``NAME.safetensors``, written by :func:`urst_tiles.networks.save_weights`, and
``NAME.json``, its :class:`StyleCard`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from urst_tiles.errors import InputError

if TYPE_CHECKING:
    from urst_tiles.networks import StyleNetwork

__all__ = ["DEFAULT_STYLE", "StyleCard", "list_styles", "load_style", "preview_of", "save_style"]

DEFAULT_STYLE = "starry-night"
"""What the demo takes."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class StyleCard:
    """What is known of a style."""

    name: str
    # lower-case letters, digits, - and _: also the files' name
    title: str
    # of the painting
    painter: str = ""
    year: str = ""
    # of the painting, as museums write it: "1889", "ca. 1830"
    method: str = "johnson"
    width: int = 0
    # channels of the first layer
    weights_licence: str = ""
    trained_by: str = ""
    command: str = ""
    # that trained it
    commit: str = ""
    # of this package when it was trained
    notes: str = ""
    losses: Mapping[str, Any] = field(default_factory=dict, hash=False)
    # weights and last values of the training's losses, whatever the trainer reports

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"a style cannot be called {self.name!r}; use lower-case letters, digits, - and _")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a card. Fields that this version does not know are left out.

        Raises:
            InputError: the file is not a card.
        """
        known = {entry.name for entry in fields(cls)}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: value for name, value in found.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a style card: {error}") from error

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def list_styles(folder: str | Path | None = None) -> tuple[StyleCard, ...]:
    """Cards of the styles in a folder, by name; of the shipped ones by default."""
    place = _folder(folder)
    return tuple(
        StyleCard.read(card) for card in sorted(place.glob("*.json")) if card.with_suffix(".safetensors").exists()
    )


def load_style(name: str, folder: str | Path | None = None) -> StyleNetwork:
    """Load a style by name.

    Raises:
        InputError: there is no such style.
        NetworkError: its weights cannot be read.
    """
    from urst_tiles.networks import load_network

    cards = {card.name: card for card in list_styles(folder)}
    if name not in cards:
        there_are = (
            f"there are {', '.join(cards)}" if cards else "none is shipped yet; give a method and a weights file"
        )
        raise InputError(f"there is no style {name!r}; {there_are}")
    return load_network(cards[name].method, _folder(folder) / f"{name}.safetensors")


def preview_of(name: str, folder: str | Path | None = None) -> Path | None:
    """The style's preview picture, ``NAME.png`` or ``NAME.jpg``, where there is one."""
    candidates = (_folder(folder) / f"{name}{suffix}" for suffix in (".png", ".jpg"))
    return next((path for path in candidates if path.exists()), None)


def save_style(folder: str | Path, card: StyleCard, network: StyleNetwork, *, half: bool = True) -> Path:
    """Write a style's two files into a folder, and return the path of the weights.

    ``half`` stores float16: half the size, and a difference of well under one grey level.

    Raises:
        InputError: the card names another method than the network's.
        NetworkError: the network has no weights, or float16 cannot hold them.
    """
    from urst_tiles.networks import save_weights

    if card.method != network.name:
        raise InputError(f"the card of {card.name} says method {card.method!r}, the network is {network.name!r}")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    weights = place / f"{card.name}.safetensors"
    save_weights(weights, network, half=half, metadata={"style": card.name, "title": card.title})
    card.write(weights.with_suffix(".json"))
    return weights


def _folder(folder: str | Path | None) -> Path:
    return Path(__file__).parent if folder is None else Path(folder)

"""Networks that are measured: the shipped style, and the paper's methods at their published widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from benchmarks import published
from urst_tiles.demo import landscape
from urst_tiles.errors import NetworkError
from urst_tiles.networks import METHODS, StyleNetwork, read_weights
from urst_tiles.networks.styling import StyleImage, Styling
from urst_tiles.networks.wct_layouts import LEVELS, levels_in
from urst_tiles.styles import DEFAULT_STYLE, load_style

__all__ = ["STYLE", "SUBJECTS", "Subject", "subject"]

STYLE = "style"
"""The shipped style that the demo takes."""

_RANDOM: Mapping[str, Callable[[], dict[str, Tensor]]] = MappingProxyType(
    {
        "johnson": published.johnson,
        "msgnet": published.msgnet,
        "adain": published.adain,
        "wct": published.wct,
        "linear-wct": published.linear_wct,
        "collaborative": published.collaborative,
        "microast": published.microast,
    }
)
SUBJECTS = (STYLE, *_RANDOM)
_STYLE_SIDE = 256
"""Of style images, in pixels: what is learnt from them has the same size whatever theirs is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, and where its weights are from."""

    network: StyleNetwork
    weights: str


def subject(name: str, folder: Path | None = None) -> Subject:
    """One of :data:`SUBJECTS`. ``folder`` holds a folder of published weights for each method that there are any of;
    the others get random ones.
    """
    if name == STYLE:
        return Subject(load_style(DEFAULT_STYLE), f"shipped: {DEFAULT_STYLE}")
    state = None if folder is None else _published(name, folder / name)
    images = (StyleImage(landscape(0, 0, _STYLE_SIDE, _STYLE_SIDE, _STYLE_SIDE, _STYLE_SIDE), 1.0),)
    styling = Styling(images if METHODS[name].takes_style else ())
    if state is not None:
        return Subject(METHODS[name].build(state, styling), "published")
    return Subject(METHODS[name].build(_RANDOM[name](), styling), "random, published widths")


def _published(name: str, folder: Path) -> dict[str, Tensor] | None:
    """What the authors published, whole; None where it is not there."""
    if not folder.is_dir():
        return None
    # A Johnson network is one file, and a folder may hold several.
    place = next(iter(sorted(folder.glob("*.pth"))), folder) if name == "johnson" else folder
    try:
        state = read_weights(name, place)
    except NetworkError:
        return None
    # A cascade with levels missing is another network.
    return state if name not in ("wct", "collaborative") or tuple(levels_in(state)) == LEVELS else None

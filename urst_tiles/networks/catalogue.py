"""What there is to choose from: every method with the facts that its graph gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from urst_tiles.networks import METHODS, sample_network

__all__ = ["MethodFacts", "describe_methods"]


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """One method, for a list."""

    name: str
    paper: str
    summary: str
    files: str
    published: str
    licence: str
    style_image: bool
    alpha: bool
    stride: int
    # in pixels; derived from the graph of the published geometry, as is
    halo: int
    # in pixels
    norms: int
    # layers that take statistics

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def describe_methods() -> tuple[MethodFacts, ...]:
    """Every method, by name. Stride and halo come from the graph of a narrow network of the published geometry."""
    return tuple(_facts(name) for name in METHODS)


def _facts(name: str) -> MethodFacts:
    method, network = METHODS[name], sample_network(name)
    return MethodFacts(
        name=name,
        paper=method.paper,
        summary=method.summary,
        files=method.files,
        published=method.published,
        licence=method.licence,
        style_image=method.takes_style,
        alpha=method.takes_alpha,
        stride=network.stride,
        halo=network.halo,
        norms=len(network.norms),
    )

"""Style networks: loading them, what is known of them, freezing them.

A method is one file in this folder and one line in ``METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.base import AnySizeNetwork, FrozenNetwork, StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict, read_metadata, state_dict_hash
from urst_tiles.networks.footprint import multiply_adds, parameter_bytes, peak_activation_bytes
from urst_tiles.networks.identity import identity_network
from urst_tiles.networks.johnson import load_johnson
from urst_tiles.networks.receptive_field import ReceptiveField, receptive_field
from urst_tiles.networks.saving import save_weights

__all__ = [
    "METHODS",
    "AnySizeNetwork",
    "FrozenNetwork",
    "Method",
    "ReceptiveField",
    "StyleNetwork",
    "load_network",
    "load_state_dict",
    "multiply_adds",
    "parameter_bytes",
    "peak_activation_bytes",
    "receptive_field",
    "save_weights",
    "state_dict_hash",
]


@dataclass(frozen=True, slots=True)
class Method:
    """How networks of one paper are loaded."""

    title: str
    load: Callable[[Path | None, Any, float], StyleNetwork]
    # of the weights, the style image and alpha; None where there is none
    takes_weights: bool = True
    takes_style: bool = False
    # whether the style is an image given at run time rather than trained in
    takes_alpha: bool = False
    # whether the strength of the style can be set


def _identity(_weights: Path | None, _style: Any, _alpha: float) -> StyleNetwork:
    return identity_network()


def _johnson(weights: Path | None, _style: Any, _alpha: float) -> StyleNetwork:
    if weights is None:
        raise InputError("method johnson needs a weights file")
    return load_johnson(weights)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "identity": Method("Copies the image", _identity, takes_weights=False),
        "johnson": Method("Johnson et al., ECCV 2016: one trained network per style", _johnson),
    }
)
"""Every method there is, by name."""


def load_network(
    method: str, weights: str | Path | None = None, *, style: Any = None, alpha: float = 1.0
) -> StyleNetwork:
    """Load a style network.

    Parameters:
        method: one of :data:`METHODS`.
        weights: the weights file (.pth, .model, .safetensors, …), for methods that have one.
        style: the style image, for methods that take one at run time.
        alpha: strength of the style in [0, 1], for methods that can set it.

    Raises:
        InputError: there is no such method, or it does not take what was given.
        NetworkError: the weights cannot be read or are of another method.
    """
    found = METHODS.get(method)
    if found is None:
        raise InputError(f"there is no method {method!r}; there are {', '.join(sorted(METHODS))}")
    _check(method, found, weights, style, alpha)
    path = None if weights is None else Path(weights)
    if path is not None:
        saved_as = read_metadata(path).get("method", method)
        if saved_as != method:
            raise NetworkError(f"{path} says that it holds weights of method {saved_as!r}, not {method!r}")
    return found.load(path, style, alpha)


def _check(method: str, found: Method, weights: object, style: object, alpha: float) -> None:
    if found.takes_weights and weights is None:
        raise InputError(f"method {method!r} needs a weights file")
    if not found.takes_weights and weights is not None:
        raise InputError(f"method {method!r} has no weights; leave them out")
    if style is not None and not found.takes_style:
        raise InputError(f"method {method!r} takes no style image: its style is trained into the weights")
    if style is None and found.takes_style:
        raise InputError(f"method {method!r} needs a style image")
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha {alpha} is not between 0 and 1")
    if alpha != 1.0 and not found.takes_alpha:
        raise InputError(f"method {method!r} has no alpha to set: its style has one strength")

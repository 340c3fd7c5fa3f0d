"""Style networks: loading them, what is known of them, freezing them.

A method is one file in this folder and one line in ``METHODS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import (
    adain,
    collaborative,
    cyclegan,
    identity,
    johnson,
    linear_wct,
    microast,
    msgnet,
    multimodal,
    wct,
)
from urst_tiles.networks.base import AnySizeNetwork, FrozenNetwork, StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict, read_metadata, state_dict_hash
from urst_tiles.networks.footprint import multiply_adds, parameter_bytes, peak_activation_bytes
from urst_tiles.networks.method import Method
from urst_tiles.networks.receptive_field import ReceptiveField, receptive_field
from urst_tiles.networks.saving import FORMAT, save_state, save_weights
from urst_tiles.networks.styling import STYLE_SIDE, StyleImage, Styling, read_styles
from urst_tiles.networks.weight_files import WeightFiles

__all__ = [
    "METHODS",
    "AnySizeNetwork",
    "FrozenNetwork",
    "Method",
    "ReceptiveField",
    "StyleNetwork",
    "convert_weights",
    "load_network",
    "load_state_dict",
    "multiply_adds",
    "parameter_bytes",
    "peak_activation_bytes",
    "read_weights",
    "receptive_field",
    "sample_network",
    "save_weights",
    "state_dict_hash",
]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "adain": adain.METHOD,
        "collaborative": collaborative.METHOD,
        "cyclegan": cyclegan.METHOD,
        "identity": identity.METHOD,
        "johnson": johnson.METHOD,
        "linear-wct": linear_wct.METHOD,
        "microast": microast.METHOD,
        "msgnet": msgnet.METHOD,
        "multimodal": multimodal.METHOD,
        "wct": wct.METHOD,
    }
)
"""Every method there is, by name."""


def load_network(
    method: str,
    weights: str | Path | Sequence[str | Path] | None = None,
    *,
    style: Any = None,
    alpha: float = 1.0,
    preserve_color: bool = False,
    style_size: int = STYLE_SIDE,
) -> StyleNetwork:
    """Load a style network.

    Parameters:
        method: one of :data:`METHODS`.
        weights: the weights file (.pth, .model, .t7, .safetensors, …), several, or the folder they stand in; for
            methods that have weights.
        style: the style image, a path or an array (H, W, 3), for methods that take one at run time; several styles are
            mixed when this is a list of (image, weight).
        alpha: strength of the style in [0, 1], for methods that can set it.
        preserve_color: give the style image the raster's own colours first, so that the result keeps them.
        style_size: side in pixels that a style image is scaled to; half of it, and strokes are half as large.

    Raises:
        InputError: there is no such method, or it does not take what was given.
        NetworkError: the weights cannot be read or are of another method.
        SourceError: the style image cannot be read.
    """
    found = _method(method)
    _check(method, found, weights, style, alpha, preserve_color=preserve_color)
    if not 32 <= style_size <= 8192:
        raise InputError(f"a style image of {style_size} px is out of range; use 32 to 8192")
    state = {} if weights is None else read_weights(method, weights)
    styling = Styling(() if style is None else read_styles(style, style_size), alpha)
    network = found.build(state, styling)
    if preserve_color:
        network.recolour_with(lambda content: found.build(state, styling.recoloured(content)))
    return network


def sample_network(method: str, *, seed: int = 0, alpha: float = 1.0) -> StyleNetwork:
    """A network of the method's published geometry with few channels and random weights, the same for the same seed."""
    found = _method(method)
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = (StyleImage(noise, 1.0),) if found.takes_style else ()
    return found.build(found.sample(seed), Styling(images, alpha))


def read_weights(method: str, weights: str | Path | Sequence[str | Path]) -> dict[str, Tensor]:
    """A method's weights by this package's names, from published files or a file that :func:`convert_weights` wrote.

    Raises:
        InputError: there is no such method.
        NetworkError: they cannot be read or are of another method.
    """
    found, files = _method(method), WeightFiles.of(weights)
    if len(files.paths) == 1:
        path = files.paths[0]
        metadata = read_metadata(path)
        saved_as = metadata.get("method", method)
        if saved_as != method:
            raise NetworkError(f"{path} says that it holds weights of method {saved_as!r}, not {method!r}")
        if metadata.get("format") == FORMAT:
            return load_state_dict(path)
    return found.read(files)


def convert_weights(
    method: str, weights: str | Path | Sequence[str | Path], out: str | Path, *, half: bool = False
) -> None:
    """Write a method's published files as one safetensors file that says what it is; ``load_network`` takes it.

    ``half`` stores float16.

    Raises:
        InputError: there is no such method, or it has no weights.
        NetworkError: the files cannot be read or are of another method.
    """
    found = _method(method)
    if not found.takes_weights:
        raise InputError(f"method {method!r} has no weights to convert")
    state = read_weights(method, weights)
    found.build(state, _any_styling(found))  # what cannot be built is not written
    save_state(out, method, state, half=half)


def _any_styling(method: Method) -> Styling:
    return Styling((StyleImage(np.zeros((32, 32, 3), np.uint8), 1.0),) if method.takes_style else ())


def _method(name: str) -> Method:
    found = METHODS.get(name)
    if found is None:
        raise InputError(f"there is no method {name!r}; there are {', '.join(sorted(METHODS))}")
    return found


def _check(method: str, found: Method, weights: object, style: object, alpha: float, *, preserve_color: bool) -> None:
    if found.takes_weights and weights is None:
        raise InputError(f"method {method!r} needs a weights file (--weights): {found.files}")
    if not found.takes_weights and weights is not None:
        raise InputError(f"method {method!r} has no weights; leave them out")
    if style is not None and not found.takes_style:
        raise InputError(f"method {method!r} takes no style image: its style is trained into the weights")
    if style is None and found.takes_style:
        raise InputError(f"method {method!r} needs a style image (--style FILE)")
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha {alpha} is not between 0 and 1")
    if alpha != 1.0 and not found.takes_alpha:
        raise InputError(f"method {method!r} has no alpha to set: its style has one strength")
    if preserve_color and not found.takes_style:
        raise InputError(f"method {method!r} takes no style image whose colours could be changed (--preserve-color)")

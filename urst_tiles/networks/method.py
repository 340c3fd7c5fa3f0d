"""What a paper's file says of its method: how networks are read and built, and the facts that people ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["Method", "State"]

State = Mapping[str, Tensor]
"""A method's weights by this package's names."""


@dataclass(frozen=True, slots=True)
class Method:
    """One paper."""

    paper: str
    # authors, venue and year
    summary: str
    # what it does, in a few words
    read: Callable[[WeightFiles], dict[str, Tensor]]
    # published files → weights by this package's names. Raises NetworkError
    build: Callable[[State, Styling], StyleNetwork]
    # of weights that `read` or a file written by save_state gave. Raises NetworkError
    sample: Callable[[int], dict[str, Tensor]]
    # seed → random weights of the published geometry with few channels: for tests, and for stride and halo
    files: str = ""
    # what `read` wants, for people
    published: str = ""
    # where the authors publish them: an address
    licence: str = ""
    # of the published weights: a licence's name, or what their authors say
    takes_weights: bool = True
    takes_style: bool = False
    # whether the style is an image given at run time rather than trained in
    takes_alpha: bool = False
    # whether the strength of the style can be set

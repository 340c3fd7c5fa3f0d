"""How published files of WCT, and of networks of its kind, name their layers, and how those names become this
package's.

A level n is VGG-19 up to conv{n}_1 (the encoder) and its mirror image (the decoder), each in a file of its own. Layers
are called here as Wang et al. call them: conv0 turns RGB into what VGG sees, conv21 is VGG's conv2_1, and a decoder's
conv21 is what undoes it::

    level3.encoder.conv0 … level3.encoder.conv31        level3.decoder.conv31 … level3.decoder.conv11
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.method import State
from urst_tiles.networks.recognition import recognise
from urst_tiles.networks.renaming import cleaned, convolution_shape, refusal, renamed
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["LEVELS", "FileNames", "Half", "check_level", "layers", "levels_in", "read_levels"]

LEVELS = (5, 4, 3, 2, 1)
"""In the order they run: coarse structure first."""

Half = Literal["encoder", "decoder"]
HALVES: tuple[Half, ...] = get_args(Half)

_VGG = ("11", "12", "21", "22", "31", "32", "33", "34", "41", "42", "43", "44", "51")
"""VGG-19's convolutions up to conv5_1."""

_ENCODER_INDICES = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42)
_DECODER_INDICES = {
    5: (1, 5, 8, 11, 14, 18, 21, 24, 27, 31, 34, 38, 41),
    4: (1, 5, 8, 11, 14, 18, 21, 25, 28),
    3: (1, 5, 8, 12, 15),
    2: (1, 5, 8),
    1: (1,),
}
"""Places of the convolutions in Torch7's sequences, paddings and the rest counted."""

_UNUSED = re.compile(r"(conv\d+_)?aux\d*\.(weight|bias)")
"""1x1 convolutions that training compares with a larger network."""


@dataclass(frozen=True, slots=True)
class FileNames:
    """A method's files: "{}" stands for the level. Regular expressions of whole names, case ignored."""

    what: str
    # the method, for messages
    encoder: str
    decoder: str
    example: str
    # of a level's two files, for messages; "{0}" stands for the level

    def of(self, files: WeightFiles, level: int) -> dict[Half, Path]:
        """The files of a level that are there.

        Raises:
            NetworkError: a half has several.
        """
        found: dict[Half, Path] = {}
        for half in HALVES:
            paths = files.matching((self.encoder if half == "encoder" else self.decoder).format(level))
            if len(paths) > 1:
                several = ", ".join(path.name for path in paths)
                raise NetworkError(f"the {half} of level {level} of {self.what} is there {len(paths)} times: {several}")
            if paths:
                found[half] = paths[0]
        return found


def layers(level: int, half: Half) -> tuple[str, ...]:
    """This package's names of the convolutions, in the order they run: layers(2, "encoder") is conv0, conv11, conv12,
    conv21.
    """
    names = tuple(f"conv{number}" for number in _VGG[: _VGG.index(f"{level}1") + 1])
    return ("conv0", *names) if half == "encoder" else names[::-1]


def levels_in(state: State) -> tuple[int, ...]:
    """The levels that weights by this package's names are of, in the order they run."""
    return tuple(level for level in LEVELS if any(name.startswith(f"level{level}.") for name in state))


def read_levels(files: WeightFiles, names: FileNames) -> dict[str, Tensor]:
    """Published files, whichever levels are there, to this package's names, in float32.

    Raises:
        NetworkError: there are none, a level has one half only, or a file holds something else.
    """
    state: dict[str, Tensor] = {}
    for level in LEVELS:
        found = names.of(files, level)
        if len(found) == 1:
            there, missing = ("encoder", "decoder") if "encoder" in found else ("decoder", "encoder")
            raise NetworkError(
                f"level {level} of {names.what} has its {there} and no {missing}; its files are called like "
                f"{names.example.format(level)}. Give both or neither"
            )
        for half, path in found.items():
            prefix = f"level{level}.{half}."
            state |= {prefix + name: tensor for name, tensor in _read(path, level, half, names.what).items()}
        if found:
            check_level(state, level, names.what)
    if not state:
        raise _nothing(files, names)
    return state


def check_level(state: State, level: int, what: str) -> None:
    """That a level's convolutions are all there and fit together.

    Raises:
        NetworkError: they do not.
    """
    prefix, outputs = f"level{level}.", 3
    for half in HALVES:
        for layer in layers(level, half):
            name, side = f"{prefix}{half}.{layer}.weight", 1 if layer == "conv0" else 3
            shape = convolution_shape(state, name, what)
            if shape[1:] != (outputs, side, side):
                raise NetworkError(
                    f"{name} has shape {shape} where {what} has ({shape[0]}, {outputs}, {side}, {side}): "
                    "the layers do not fit together, or the files are of different networks"
                )
            bias = state.get(f"{prefix}{half}.{layer}.bias")
            if bias is None or bias.shape != shape[:1]:
                raise NetworkError(f"{prefix}{half}.{layer}.bias is missing or not ({shape[0]},), as its weight wants")
            outputs = shape[0]
    if outputs != 3:
        raise NetworkError(f"{prefix}decoder gives {outputs} channels, not RGB: these are not the weights of {what}")


def _read(path: Path, level: int, half: Half, what: str) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in cleaned(load_state_dict(path)).items() if not _UNUSED.fullmatch(name)}
    part = f"the {half} of level {level} of {what}"
    closest = max(_layouts(level, half), key=lambda theirs: sum(f"{name}.weight" in state for name in theirs))
    none_fits = not any(f"{name}.weight" in state for name in closest)
    if none_fits or half not in (recognise(state) or half):
        raise refusal(state, part, str(path))
    return renamed(state, _parameters(closest, layers(level, half)), part, str(path))


def _parameters(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    return {
        f"{old}.{part}": f"{new}.{part}" for old, new in zip(theirs, ours, strict=True) for part in ("weight", "bias")
    }


def _layouts(level: int, half: Half) -> tuple[tuple[str, ...], ...]:
    """The known ways to name a half's convolutions: Torch7's places, Wang et al.'s names, and conv1, conv2, … counted
    through the encoder and on through the decoder.
    """
    count, inside = len(layers(level, "encoder")), len(layers(level, half))
    places = _ENCODER_INDICES[:inside] if half == "encoder" else _DECODER_INDICES[level]
    first = 1 if half == "encoder" else count + 1
    return (
        tuple(str(place) for place in places),
        layers(level, half),
        tuple(f"conv{number}" for number in range(first, first + inside)),
    )


def _nothing(files: WeightFiles, names: FileNames) -> NetworkError:
    """What the first of the files is instead, where it can be read."""
    first = files.paths[0]
    advice = f"files of {names.what} are called like {names.example.format(5)}, for levels 5 to 1"
    try:
        told = refusal(cleaned(load_state_dict(first)), names.what, str(first))
    except NetworkError as error:
        told = error
    return NetworkError(f"{told}; {advice}")

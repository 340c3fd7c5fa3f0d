"""What the tests of WCT and of Wang et al.'s networks share: published names, and the network a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tests.networks_support import noise
from urst_tiles.networks.styling import StyleImage, Styling

State = dict[str, Tensor]

ENCODER_PLACES = [0, 2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42]
DECODER_PLACES = {
    1: [1],
    2: [1, 5, 8],
    3: [1, 5, 8, 12, 15],
    4: [1, 5, 8, 11, 14, 18, 21, 25, 28],
    5: [1, 5, 8, 11, 14, 18, 21, 24, 27, 31, 34, 38, 41],
}
_VGG = ("11", "12", "21", "22", "31", "32", "33", "34", "41", "42", "43", "44", "51")
NAMES = ["conv0", *(f"conv{number}" for number in _VGG)]
LAST = {1: 2, 2: 4, 3: 6, 4: 10, 5: 14}
"""Number of an encoder's convolutions by level."""

VGG = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}


def styles(*seeds: int, alpha: float = 1.0, side: int = 64) -> Styling:
    return Styling(tuple(StyleImage(noise(side, side, seed=seed), 1 / len(seeds)) for seed in seeds), alpha)


def published(level: int, half: str, widths: dict[str, int] | None = None) -> State:
    """The full shape of a level's file by Wang et al.'s names, empty."""
    widths = widths or VGG
    shapes: list[tuple[str, int, int]] = []
    inputs = 3
    for name in NAMES[1 : LAST[level]]:
        shapes.append((name, inputs, widths[name[4]]))
        inputs = widths[name[4]]
    state: State = {}
    if half == "encoder":
        state = {"conv0.weight": torch.zeros(3, 3, 1, 1), "conv0.bias": torch.zeros(3)}
        for name, before, after in shapes:
            state |= {f"{name}.weight": torch.zeros(after, before, 3, 3), f"{name}.bias": torch.zeros(after)}
        return state
    for name, before, after in reversed(shapes):
        state |= {f"{name}.weight": torch.zeros(before, after, 3, 3), f"{name}.bias": torch.zeros(before)}
    return state


def half_of(state: State, level: int, half: str) -> State:
    """One file's tensors by Wang et al.'s names, of a state by the package's."""
    prefix = f"level{level}.{half}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def as_they_are(state: State, _level: int, _half: str) -> State:
    return state


def by_place(state: State, level: int, half: str) -> State:
    """Names of PytorchWCT's and Torch7's files: places in the sequence."""
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    places = ENCODER_PLACES[: len(names)] if half == "encoder" else DECODER_PLACES[level]
    ordered = [name for name in NAMES if name in names][:: 1 if half == "encoder" else -1]
    table = dict(zip(ordered, map(str, places), strict=True))
    return {f"{table[name]}.{part}": state[f"{name}.{part}"] for name in ordered for part in ("weight", "bias")}


def counted(state: State, level: int, half: str) -> State:
    """conv1, conv2, … through the encoder and on through the decoder."""
    ordered = [name for name in NAMES if f"{name}.weight" in state][:: 1 if half == "encoder" else -1]
    first = 1 if half == "encoder" else LAST[level] + 1
    return {
        f"conv{number}.{part}": state[f"{name}.{part}"]
        for number, name in enumerate(ordered, first)
        for part in ("weight", "bias")
    }


def save_level(folder: Path, state: State, level: int, file_names: tuple[str, str]) -> None:
    """A level's two files with the names that PytorchWCT's have inside."""
    folder.mkdir(exist_ok=True)
    for half, name in zip(("encoder", "decoder"), file_names, strict=True):
        # A copy of each: a file of weights is never as small as these, and text is what small files are taken for.
        torch.save(by_place(half_of(state, level, half), level, half), folder / name.format(level))


def conv(x: Tensor, state: State, place: int) -> Tensor:
    weight = state[f"{place}.weight"].double()
    if weight.shape[-1] == 3:
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(x, weight, state[f"{place}.bias"].double())


def encode(x: Tensor, state: State, level: int) -> Tensor:
    """VGG-19 to conv{level}_1 from the raw published keys: 0, 2, 5, 9, …; pooled before conv2_1, conv3_1, …"""
    x = conv(x, state, 0)
    for place in ENCODER_PLACES[1 : LAST[level]]:
        if place in (9, 16, 29, 42):
            x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
        x = functional.relu(conv(x, state, place))
    return x


def decode(x: Tensor, state: State, level: int, *, positive: bool) -> Tensor:
    """Its mirror image; upsampled after conv5_1, conv4_1, …, where the next place is four on, not three."""
    places = DECODER_PLACES[level]
    for place, following in zip(places, [*places[1:], None], strict=True):
        x = conv(x, state, place)
        if following is not None or positive:
            x = functional.relu(x)
        if following is not None and following - place == 4:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return x


def power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    values = np.where(values > 1e-5, values, 1.0) ** exponent * (values > 1e-5)
    return vectors @ np.diag(values) @ vectors.T  # type: ignore[no-any-return]


def transfer(content: Tensor, style: Tensor, alpha: float) -> Tensor:
    """Eq. 3 and 4 of Li et al. as published: I is added to the content's covariance and not to the style's."""
    flat, wanted = content[0].flatten(1).numpy(), style[0].flatten(1).numpy()
    mean, style_mean = flat.mean(1, keepdims=True), wanted.mean(1, keepdims=True)
    white = power(np.cov(flat) + np.eye(len(flat)), -0.5) @ (flat - mean)
    styled = power(np.cov(wanted), 0.5) @ white + style_mean
    return torch.from_numpy(alpha * styled + (1 - alpha) * flat).reshape(content.shape)


def reference(
    image: Tensor, style: Tensor, state: State, levels: tuple[int, ...], alpha: float, *, positive: bool
) -> Tensor:
    """The whole cascade, each whitening with the picture's own statistics, in float64."""
    for level in levels:
        encoder, decoder = (by_place(half_of(state, level, half), level, half) for half in ("encoder", "decoder"))
        features = transfer(encode(image, encoder, level), encode(style.double(), encoder, level), alpha)
        image = decode(features, decoder, level, positive=positive)
    return image

"""Tiny photos, paintings and loss networks for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support import picture
from urst_tiles.networks.vgg import encoder_positions
from urst_tiles.training.config import LossWeights, TrainingConfig
from urst_tiles.training.vgg import LossNetwork

CHANNELS = (4, 4, 6, 6, 8, 8, 8, 8, 8)
"""Of conv1_1 … conv4_1 in a loss network that is small enough for a test."""


def vgg_state(layers: int = len(CHANNELS), seed: int = 3, names: str = "features") -> dict[str, Tensor]:
    """Random weights under torchvision's names or Caffe's."""
    generator = torch.Generator().manual_seed(seed)
    indices = (0, 2, 5, 7, 10, 12, 14, 16, 19)
    caffe = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "3_4", "4_1")
    state, inputs = {}, 3
    for index, name, outputs in list(zip(indices, caffe, CHANNELS, strict=True))[:layers]:
        stem = f"features.{index}" if names == "features" else f"conv{name}"
        spread = (2 / (9 * inputs)) ** 0.5
        state[f"{stem}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        state[f"{stem}.bias"] = torch.randn(outputs, generator=generator) * 0.1
        inputs = outputs
    return state


def loss_network(layers: int = len(CHANNELS)) -> LossNetwork:
    values = list(vgg_state(layers).values())
    return LossNetwork(zip(values[::2], values[1::2], strict=True), "torchvision")


def save_vgg(path: Path, layers: int = len(CHANNELS), names: str = "features") -> Path:
    torch.save(vgg_state(layers, names=names), path)
    return path


def save_encoder(path: Path, layers: int = 5, spelling: str = "places", seed: int = 3) -> Path:
    """A random encoder of style transfer, features of the order of 1, under one of the names that files use."""
    generator = torch.Generator().manual_seed(seed)
    widths = (*CHANNELS, 8, 8, 8)[:layers]
    numbers = ("0", "11", "12", "21", "22", "31", "32", "33", "34", "41", "42", "43", "44")
    names = {
        "places": encoder_positions(layers),
        "conv11": [f"conv{number}" for number in numbers[: layers + 1]],
        "conv1": [f"conv{number}" for number in range(1, layers + 2)],
    }[spelling]
    state, inputs = {f"{names[0]}.weight": 3 * torch.eye(3)[:, :, None, None], f"{names[0]}.bias": -torch.ones(3)}, 3
    for name, outputs in zip(names[1:], widths, strict=True):
        spread = (2 / (9 * inputs)) ** 0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        state[f"{name}.bias"] = torch.rand(outputs, generator=generator) * 0.3
        inputs = outputs
    torch.save(state, path)
    return path


def photo_folder(folder: Path, count: int = 3, side: int = 96) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_photo(folder / f"photo{i}.tif", picture(side, side + 8 * i, seed=i))
    return folder


def write_photo(path: Path, pixels: NDArray[np.uint8]) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb")
    return path


def tiny_config(**changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "steps": 20,
        "batch": 1,
        "crop": 64,
        "style_size": 64,
        "width": 4,
        "blocks": 1,
        "warmup": 2,
        "hold_out": 1,
        "device": "cpu",
        "precision": "float32",
        "checkpoint_every": 10,
        "preview_every": 0,
        "weights": LossWeights(),
    }
    return TrainingConfig(**{**settings, **changes})  # type: ignore[arg-type]


def tiny_decoder_config(method: str, **changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "steps": 20,
        "batch": 1,
        "crop": 64,
        "style_size": 64,
        "learning_rate": 5e-3,
        "hold_out": 1,
        "device": "cpu",
        "precision": "float32",
        "checkpoint_every": 10,
        "preview_every": 0,
    }
    return TrainingConfig.of(method, **{**settings, **changes})

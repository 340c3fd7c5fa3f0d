"""Losses on held-out photos: each shipped style, the photos themselves, and other networks beside them.

    python -m benchmarks.style_losses --photos DIR --paintings DIR --vgg FILE [--weights mosaic.pth …] [--cards]

The painting's file, its size and its median filter are those of the training command on each style's card. Of networks
of other paintings only what does not compare with the painting is given: content and strokes, in the same units. Writes
benchmarks/results/style_losses.json; ``--cards`` writes the numbers into the cards too.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import urst_tiles.styles
from benchmarks.common import save
from urst_tiles.networks import load_network
from urst_tiles.styles import StyleCard, list_styles, load_style
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import CropSampler, PhotoFolder
from urst_tiles.training.devices import chosen_device, chosen_precision
from urst_tiles.training.evaluation import held_out_losses
from urst_tiles.training.painting import read_painting
from urst_tiles.training.recipes import JohnsonRecipe
from urst_tiles.training.vgg import LossNetwork, load_loss_network

ANY_PAINTING = ("content", "stroke")
"""Terms that do not compare with the painting."""

MEASURED_ON = 8
"""Batches that the divisor of content is measured on, as a training does."""


class Photo(nn.Module):
    """Leaves the photo as it is: what a style begins from."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.nothing


def training_of(card: StyleCard) -> tuple[str, TrainingConfig]:
    """The painting's file name and the settings that decide its losses, from the card's command."""
    words = shlex.split(card.command)
    options = {name: value for name, value in pairwise(words) if name.startswith("--")}
    default = TrainingConfig()
    config = TrainingConfig(
        batch=int(options.get("--batch", default.batch)),
        crop=int(options.get("--crop", default.crop)),
        style_size=int(options.get("--style-size", default.style_size)),
        style_median=int(options.get("--style-median", default.style_median)),
    )
    return words[3], config  # urst-tiles train PHOTOS PAINTING


def losses_of(
    module: nn.Module, recipe: JohnsonRecipe, photos: PhotoFolder, config: TrainingConfig
) -> dict[str, float]:
    """Means over held-out photos, with the network put into a recipe of the same painting."""
    recipe.network = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampler = CropSampler(photos, crop=config.crop, batch=config.batch, seed=config.seed, noise=config.noise)
    constants = recipe.prepare([sampler.batch(step) for step in range(MEASURED_ON)])
    return {name: round(value, 4) for name, value in held_out_losses(recipe, photos, config, constants).items()}


def measure(
    card: StyleCard, paintings: Path, photos: PhotoFolder, vgg: LossNetwork, others: list[Path]
) -> dict[str, dict[str, float] | dict[str, dict[str, float]]]:
    file, config = training_of(card)
    painting = read_painting(paintings / file, config.style_size, config.style_median)
    recipe = JohnsonRecipe(Photo(), vgg, painting, config)
    beside = {
        path.stem: {
            name: value
            for name, value in losses_of(load_network("johnson", path).module, recipe, photos, config).items()
            if name in ANY_PAINTING
        }
        for path in others
    }
    return {
        "terms": losses_of(load_style(card.name).module, recipe, photos, config),
        "the photos themselves": losses_of(Photo(), recipe, photos, config),
        "published networks, same photos": beside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--paintings", type=Path, required=True, help="folder that the paintings stand in")
    parser.add_argument("--vgg", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="gives the layers that --vgg ends before")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="johnson weights files to compare with")
    parser.add_argument("--cards", action="store_true", help="write the numbers into the styles' cards")
    arguments = parser.parse_args()
    precision = chosen_precision("auto", chosen_device("cpu"))
    vgg = load_loss_network(arguments.vgg, encoder=arguments.encoder).to(precision)
    vgg.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    photos = PhotoFolder(arguments.photos, hold_out=TrainingConfig().hold_out)
    found = {}
    for card in list_styles():
        found[card.name] = measured = measure(card, arguments.paintings, photos, vgg, arguments.weights)
        print(card.name, measured["terms"], flush=True)
        if arguments.cards:
            path = Path(urst_tiles.styles.__file__).parent / f"{card.name}.json"
            replace(card, losses={**card.losses, **measured}).write(path)
    save("style_losses", {"held-out photos": len(photos.held_out), "styles": found})


if __name__ == "__main__":
    main()

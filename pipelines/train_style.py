"""Train a style from your own painting and photos, then stylize a raster with it.

    python pipelines/train_style.py PHOTOS PAINTING VGG.pth RASTER OUT_FOLDER [--start STYLE] [--steps 2000]

Two stages, because it is quicker: first without the stroke perceptual loss, which costs as much as all other terms
together, then a quarter of the steps with it. An interrupted stage goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from urst_tiles import load_style, stylize
from urst_tiles.training import LossWeights, TrainingConfig, train_style
from urst_tiles.training.progress import TrainingProgress


def train_in_two_stages(given: argparse.Namespace) -> str:
    """Returns the style's name."""
    first = TrainingConfig(
        steps=given.steps, batch=given.batch, style_size=960, style_median=5, weights=LossWeights(stroke=0)
    )
    second = replace(first, steps=max(1, given.steps // 4), learning_rate=1e-3, weights=LossWeights(stroke=1))
    start = given.start
    for name, config in (("without-strokes", first), ("style", second)):
        out = given.out / f"{name}.safetensors"
        with TrainingProgress() as bar:
            report = train_style(
                given.photos,
                given.painting,
                out,
                vgg=given.vgg,
                config=config,
                start=start,
                resume=(given.out / f"{name}.training" / "checkpoint.pt").exists(),
                callbacks=(bar,),
            )
        print(report.text())
        start = out
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a style and stylize a raster with it.")
    for name in ("photos", "painting", "vgg", "raster", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--start", type=Path, help="a trained style to begin with")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=2)
    given = parser.parse_args()
    style = load_style(train_in_two_stages(given), folder=given.out)
    report = stylize(given.raster, given.out / "stylized.tif", network=style, overwrite=True)
    print(f"{given.out / 'stylized.tif'}: {report.width} x {report.height} px in {report.seconds:.0f} s")


if __name__ == "__main__":
    main()

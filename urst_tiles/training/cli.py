# ruff: noqa: FBT002  (options of the command line)
"""``urst-tiles train``: arguments in, train_style(), a report out.

Defaults are those of method johnson. Options that were not typed are left to the method asked for.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from urst_tiles.training.choices import config_of, defaults_of
from urst_tiles.training.config import LossWeights, TrainedMethod, TrainingConfig

__all__ = ["train_command"]

_DEFAULTS = TrainingConfig()
_WEIGHTS = LossWeights()


def train_command(
    context: typer.Context,
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photos, any format, any size.")],
    painting: Annotated[
        Path, typer.Argument(metavar="PAINTING", help="The style: one picture; for adain and linear-wct also a folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.safetensors; NAME.json becomes its card.")],
    method: Annotated[
        TrainedMethod,
        typer.Option("--method", help="johnson: a network for one painting; the others: a decoder for any style."),
    ] = _DEFAULTS.method,
    vgg: Annotated[
        Path | None,
        typer.Option("--vgg", help="johnson: VGG19 weights, torchvision's file, or one converted from Caffe."),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder",
            help="adain, linear-wct: VGG weights, vgg_normalised.pth or another. The decoder begins at the deepest of "
            "relu4_1, relu3_1, relu2_1 in it. johnson: the layers that --vgg ends before, or all.",
        ),
    ] = None,
    vgg_pixels: Annotated[
        Literal["auto", "torchvision", "caffe"], typer.Option("--vgg-pixels", help="What the VGG19 was trained with.")
    ] = "auto",
    width: Annotated[
        int, typer.Option("--width", help="Channels of the network at full resolution.")
    ] = _DEFAULTS.width,
    steps: Annotated[
        int, typer.Option("--steps", help="Steps in all.", show_default=defaults_of("steps"))
    ] = _DEFAULTS.steps,
    batch: Annotated[
        int, typer.Option("--batch", help="Crops a step.", show_default=defaults_of("batch"))
    ] = _DEFAULTS.batch,
    crop: Annotated[
        int, typer.Option("--crop", help="Side of a crop in px; thumbnail and patch have half.")
    ] = _DEFAULTS.crop,
    style_size: Annotated[
        int,
        typer.Option(
            "--style-size",
            help="Short side in px of paintings: larger, larger strokes.",
            show_default=defaults_of("style_size"),
        ),
    ] = _DEFAULTS.style_size,
    style_median: Annotated[
        int, typer.Option("--style-median", help="Window in px, odd, that takes speckle out of the painting; 1: none.")
    ] = _DEFAULTS.style_median,
    stroke: Annotated[
        float, typer.Option("--lambda", help="Weight of the stroke perceptual loss; 0 trains without.")
    ] = _WEIGHTS.stroke,
    stroke_layer: Annotated[
        str, typer.Option("--stroke-layer", help="relu4_1 or another; auto: relu4_1 or the deepest there is.")
    ] = _DEFAULTS.stroke_layer,
    style_weight: Annotated[float, typer.Option("--style-weight", show_default=defaults_of("style"))] = _WEIGHTS.style,
    content_weight: Annotated[
        float, typer.Option("--content-weight", show_default=defaults_of("content"))
    ] = _WEIGHTS.content,
    tone_weight: Annotated[float, typer.Option("--tone-weight", help="Of the painting's palette.")] = _WEIGHTS.tone,
    grain_weight: Annotated[
        float, typer.Option("--grain-weight", help="Of detail being as strong as the painting's.")
    ] = _WEIGHTS.grain,
    light_weight: Annotated[
        float, typer.Option("--light-weight", help="Of what is light in the photo being light in the picture.")
    ] = _WEIGHTS.light,
    flatness_weight: Annotated[
        float, typer.Option("--flatness-weight", help="Against places without strokes.")
    ] = _WEIGHTS.flatness,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", show_default=defaults_of("learning_rate"))
    ] = _DEFAULTS.learning_rate,
    schedule: Annotated[
        Literal["cosine", "inverse", "constant"],
        typer.Option(
            "--schedule",
            help="Of the learning rate; inverse: rate / (1 + decay x step).",
            show_default=defaults_of("schedule"),
        ),
    ] = _DEFAULTS.schedule,
    decay: Annotated[
        float, typer.Option("--decay", help="Of schedule inverse.", show_default=defaults_of("decay"))
    ] = _DEFAULTS.decay,
    start: Annotated[
        Path | None, typer.Option("--start", help="Begin with this trained style: much quicker than from nothing.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from NAME.training/checkpoint.pt.")] = False,
    hold_out: Annotated[
        int, typer.Option("--hold-out", help="Photos kept for previews and losses.")
    ] = _DEFAULTS.hold_out,
    seed: Annotated[int, typer.Option("--seed")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = _DEFAULTS.device,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option("--precision", help="Of the arithmetic.")
    ] = _DEFAULTS.precision,
    preview_every: Annotated[
        int,
        typer.Option(
            "--preview-every",
            help="Steps between pictures in NAME.training/; 0: none.",
            show_default=defaults_of("preview_every"),
        ),
    ] = _DEFAULTS.preview_every,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", help="Steps.")] = _DEFAULTS.checkpoint_every,
    title: Annotated[str, typer.Option("--title", help="Of the painting, for the card.")] = "",
    painter: Annotated[str, typer.Option("--painter", help="For the card.")] = "",
    year: Annotated[str, typer.Option("--year", help="Of the painting, for the card.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the weights, for the card.")] = "",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard, if installed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Train a network for one painting, or a decoder for any, with the stroke perceptual loss. Ctrl-C and --resume go
    on later."""
    from urst_tiles.styles import StyleCard
    from urst_tiles.training.progress import TrainingProgress, board
    from urst_tiles.training.styles import train_style

    settings = {
        "steps": steps,
        "batch": batch,
        "crop": crop,
        "style_size": style_size,
        "style_median": style_median,
        "width": width,
        "stroke_layer": stroke_layer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "decay": decay,
        "hold_out": hold_out,
        "seed": seed,
        "device": device,
        "precision": precision,
        "preview_every": preview_every,
        "checkpoint_every": checkpoint_every,
    }
    weights = {
        "stroke": stroke,
        "style_weight": style_weight,
        "content_weight": content_weight,
        "tone_weight": tone_weight,
        "grain_weight": grain_weight,
        "light_weight": light_weight,
        "flatness_weight": flatness_weight,
    }
    config = config_of(method, context, settings, weights)
    card = None
    if not config.any_style:
        card = StyleCard(
            name=out.stem,
            title=title or painting.stem,
            painter=painter,
            year=year,
            weights_licence=licence,
            command=shlex.join(["urst-tiles", *sys.argv[1:]]),
        )
    place = out.with_suffix(".training")
    with TrainingProgress(quiet=quiet) as bar, board(place if tensorboard else None) as to_board:
        report = train_style(
            photos,
            painting,
            out,
            vgg=vgg,
            encoder=encoder,
            pixels=vgg_pixels,
            config=config,
            card=card,
            start=start,
            resume=resume,
            callbacks=(bar, to_board),
        )
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())

"""Which settings a training takes from the command line, and which from its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import typer

from urst_tiles.errors import InputError
from urst_tiles.training.config import LossWeights, TrainedMethod, TrainingConfig

__all__ = ["config_of", "defaults_of"]

_ONE_PAINTING = (
    *("vgg_pixels", "width", "style_median", "tone_weight", "grain_weight", "light_weight", "flatness_weight"),
    *("title", "painter", "year", "licence"),
)
"""Options that mean something to johnson only."""


def defaults_of(name: str) -> str:
    """The defaults of all methods, for the help: "4000; adain 160000; linear-wct 100000"."""
    configs = {method: TrainingConfig.of(method) for method in get_args(TrainedMethod)}
    values = {method: getattr(config, name, None) for method, config in configs.items()}
    if name in LossWeights.__dataclass_fields__:
        values = {method: getattr(config.weights, name) for method, config in configs.items()}
    first, *others = values.items()
    return "; ".join([f"{first[1]}", *(f"{method} {value}" for method, value in others if value != first[1])])


def config_of(
    method: str, context: typer.Context, settings: Mapping[str, Any], weights: Mapping[str, float]
) -> TrainingConfig:
    """The method's own settings, with those of ``settings`` and ``weights`` that were typed.

    Raises:
        InputError: an option was typed that the method does not have, or is out of range.
    """
    typed = _typed(context)
    config = TrainingConfig.of(method)
    strange = [name for name in _ONE_PAINTING if name in typed]
    if config.any_style and strange:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
        raise InputError(f"method {method!r} takes no {options}: that is of method 'johnson'")
    changed = {name.removesuffix("_weight"): value for name, value in weights.items() if name in typed}
    return TrainingConfig.of(
        method,
        **{name: value for name, value in settings.items() if name in typed},
        weights=replace(config.weights, **changed),
    )


def _typed(context: typer.Context) -> set[str]:
    """Names of the options that the user gave."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}

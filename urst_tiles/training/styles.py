"""train_style(): a folder of photos and a painting in, a style out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from urst_tiles.errors import InputError
from urst_tiles.networks import StyleNetwork
from urst_tiles.styles import StyleCard, save_style
from urst_tiles.training.checkpoints import TrainingState, load_checkpoint
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import cut
from urst_tiles.training.evaluation import held_out_losses
from urst_tiles.training.events import (
    PhotoSkipped,
    PreviewWritten,
    TrainingCallback,
    TrainingEvent,
    TrainingStarted,
)
from urst_tiles.training.preparing import Prepared, prepare
from urst_tiles.training.previews import draw_losses, write_preview
from urst_tiles.training.recipes import JohnsonRecipe
from urst_tiles.training.trainer import Trainer
from urst_tiles.training.vgg import PixelRange

__all__ = ["TrainingReport", "train_style"]

_PREVIEWED = 4
"""Photos in a preview."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of a training."""

    weights: Path
    # the style's safetensors; its card stands beside it
    card: StyleCard
    steps: int
    skipped_steps: int
    # whose gradient was not finite
    skipped_photos: int
    # that could not be decoded
    seconds: float
    # in steps, all runs of a resumed training together
    losses: Mapping[str, float]
    # on held-out photos, by term, not weighted; of the training's end where none are held out

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "weights": str(self.weights), "losses": dict(self.losses)}

    def text(self) -> str:
        """For people."""
        losses = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        skipped = (
            f"; skipped {self.skipped_steps} steps, {self.skipped_photos} photos"
            if self.skipped_steps or self.skipped_photos
            else ""
        )
        return (
            f"trained    {self.weights} ({self.weights.stat().st_size / 1e6:.2f} MB)\n"
            f"steps      {self.steps} in {self.seconds / 60:.0f} min{skipped}\n"
            f"losses     {losses}\n"
            f"use it     urst-tiles stylize INPUT OUTPUT --network {self.card.method} --weights {self.weights}"
        )


def train_style(
    photos: str | Path,
    style: str | Path,
    out: str | Path,
    *,
    vgg: str | Path,
    pixels: PixelRange | Literal["auto"] = "auto",
    config: TrainingConfig | None = None,
    card: StyleCard | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainingCallback] = (),
) -> TrainingReport:
    """Train a Johnson network for one painting, with the stroke perceptual loss.

    While it runs, ``NAME.training/`` beside ``out`` holds ``checkpoint.pt``, previews of held-out photos and the loss
    curve; it stays.

    Parameters:
        photos: a folder of photos in any format, of any size.
        style: the painting.
        out: ``FOLDER/NAME.safetensors``; ``FOLDER/NAME.json`` becomes its card.
        vgg: weights of the loss network, see :func:`~urst_tiles.training.vgg.load_loss_network`.
        pixels: what these were trained with.
        config: see :class:`TrainingConfig`.
        card: what is known of the painting; name, method, width and losses are filled in.
        start: weights of a trained network of the same size to begin with, instead of random ones.
        resume: go on from the checkpoint: the result is the same, bit for bit, as without the stop.

    Raises:
        InputError: an argument makes no sense, there are no photos, or there is no checkpoint to go on from.
        RunMismatchError: the checkpoint belongs to another training.
        NetworkError: weights cannot be read, or the training diverges.
        SourceError: the painting cannot be read.
        StoreError: a file cannot be written.
    """
    config, target = config or TrainingConfig(), Path(out)
    card = _card(card, target, config)

    def tell(event: TrainingEvent) -> None:
        for callback in callbacks:
            callback(event)

    prepared = prepare(
        photos,
        style,
        target,
        vgg=vgg,
        pixels=pixels,
        config=config,
        start=start,
        on_skip=lambda path, reason: tell(PhotoSkipped(path, reason)),
    )
    state = _resumed(prepared) if resume else None
    tell(_started(prepared, state))
    final = Trainer(
        prepared.recipe,
        prepared.sampler(),
        config,
        checkpoint=prepared.checkpoint,
        facts=prepared.facts,
        state=state,
        preview=_Previews(prepared, tell),
        callbacks=callbacks,
    ).run()
    losses = held_out_losses(prepared.recipe, prepared.photos, config, final.constants) or _last(final, config)
    said = {"held-out photos": len(prepared.photos.held_out), **_rounded(losses), "curve": _curve(final)}
    finished = StyleNetwork(prepared.recipe.name, prepared.recipe.network.to("cpu"))
    card = replace(card, losses=said)
    weights = save_style(target.parent, card, finished)
    skipped = len(prepared.photos.skipped)
    return TrainingReport(weights, card, final.step, final.skipped, skipped, final.seconds, losses)


def _card(card: StyleCard | None, target: Path, config: TrainingConfig) -> StyleCard:
    if target.suffix != ".safetensors":
        raise InputError(
            f"a style is written as a safetensors file: {target.with_suffix('.safetensors')}, not {target}"
        )
    known = card or StyleCard(name=target.stem, title=target.stem)
    return replace(known, name=target.stem, method=JohnsonRecipe.name, width=config.width)


def _started(prepared: Prepared, state: TrainingState | None) -> TrainingStarted:
    return TrainingStarted(
        state.step if state else 0,
        prepared.config.steps,
        len(prepared.photos.paths),
        len(prepared.photos.held_out),
        prepared.recipe.stroke_layer,
        prepared.facts["precision"],
    )


def _resumed(prepared: Prepared) -> TrainingState:
    path = prepared.checkpoint
    if not path.exists():
        raise InputError(f"there is no training to go on with: no {path}. Leave out --resume to begin one")
    state = load_checkpoint(path)
    state.check(prepared.config.to_json(), prepared.facts)
    _log.info("going on after step %d of %d", state.step, prepared.config.steps)
    return state


class _Previews:
    """Writes pictures of held-out photos and the loss curve when called."""

    def __init__(self, prepared: Prepared, tell: TrainingCallback) -> None:
        self._prepared, self._tell = prepared, tell
        self._photos = _shown(prepared) if prepared.config.preview_every else []

    def __call__(self, state: TrainingState) -> None:
        folder = self._prepared.folder
        if self._photos:
            path = folder / f"preview-{state.step:06d}.png"
            write_preview(path, self._prepared.recipe.network, self._photos)
            self._tell(PreviewWritten(path, state.step))
        draw_losses(folder / "losses.png", state.history)


def _shown(prepared: Prepared) -> list[Tensor]:
    """The largest square in the middle of each held-out photo, shrunk to a crop."""
    side = prepared.config.crop // 16 * 16
    photos = prepared.photos
    found = [pixels for path in photos.held_out[:_PREVIEWED] if (pixels := photos.read(path)) is not None]
    return [cut(pixels, side, 0.999, 0.5, 0.5).to(prepared.device) for pixels in found]


def _last(state: TrainingState, config: TrainingConfig) -> dict[str, float]:
    """Mean of each term over the last steps, not weighted."""
    weights = asdict(config.weights)
    ends = {name: values[-50:] for name, values in state.history.items() if name in weights}
    return {name: sum(values) / len(values) / weights[name] for name, values in ends.items() if values}


def _curve(state: TrainingState, points: int = 20) -> dict[str, list[float]]:
    """The weighted loss as it went: step and total, each the mean of a stretch of steps."""
    parts = {name: np.array_split(state.history.get(name, []), points) for name in ("step", "total")}
    return {name: [round(float(part.mean()), 3) for part in found if len(part)] for name, found in parts.items()}


def _rounded(losses: Mapping[str, float]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in losses.items()}

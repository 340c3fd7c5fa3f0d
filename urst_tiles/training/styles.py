"""train_style(): a folder of photos and paintings in, a style or a decoder for any style out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from urst_tiles.errors import InputError
from urst_tiles.runs import write_atomically
from urst_tiles.styles import StyleCard
from urst_tiles.training.checkpoints import TrainingState, load_checkpoint
from urst_tiles.training.config import TrainingConfig
from urst_tiles.training.data import cut
from urst_tiles.training.evaluation import held_out_losses
from urst_tiles.training.events import (
    PaintingSkipped,
    PhotoSkipped,
    PreviewWritten,
    TrainingCallback,
    TrainingEvent,
    TrainingStarted,
)
from urst_tiles.training.preparing import Given, Prepared, prepare
from urst_tiles.training.previews import draw_losses, write_preview
from urst_tiles.training.report import TrainingReport
from urst_tiles.training.trainer import Trainer
from urst_tiles.training.vgg import PixelRange

__all__ = ["TrainingReport", "train_style"]

_PREVIEWED = 4
"""Photos in a preview."""

_log = logging.getLogger(__name__)


def train_style(
    photos: str | Path,
    style: str | Path,
    out: str | Path,
    *,
    vgg: str | Path | None = None,
    encoder: str | Path | None = None,
    pixels: PixelRange | Literal["auto"] = "auto",
    config: TrainingConfig | None = None,
    card: StyleCard | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainingCallback] = (),
) -> TrainingReport:
    """Train a Johnson network for one painting, or the decoder of AdaIN or LinearWCT for any, with the stroke
    perceptual loss.

    While it runs, ``NAME.training/`` beside ``out`` holds ``checkpoint.pt``, previews of held-out photos and the loss
    curve, at the end also ``report.json``; it stays.

    Parameters:
        photos: a folder of photos in any format, of any size.
        style: the painting; for AdaIN and LinearWCT also a folder of paintings, read as the photos are.
        out: ``FOLDER/NAME.safetensors``; for a painting, ``FOLDER/NAME.json`` becomes its card.
        vgg: for Johnson's networks, weights of the loss network, see
            :func:`~urst_tiles.training.vgg.load_loss_network`.
        encoder: for AdaIN and LinearWCT, weights of the encoder, which is the loss network too; the decoder begins
            where they end, see :func:`~urst_tiles.training.encoders.load_encoder`. For Johnson's networks it gives the
            layers of the loss network that ``vgg`` does not have.
        pixels: what the loss network was trained with.
        config: see :class:`TrainingConfig`; its method is what is trained.
        card: what is known of the painting; name, method, width and losses are filled in.
        start: weights of a trained network of the same size to begin with, instead of random ones.
        resume: go on from the checkpoint: the result is the same, bit for bit, as without the stop.

    Raises:
        InputError: an argument makes no sense, there are no photos or paintings, or there is no checkpoint to go on
            from.
        RunMismatchError: the checkpoint belongs to another training.
        NetworkError: weights cannot be read, or the training diverges.
        SourceError: the painting cannot be read.
        StoreError: a file cannot be written.
    """
    config, target = config or TrainingConfig(), Path(out)
    given = Given(photos, style, target, vgg, encoder, pixels, start)
    given.check(config)
    card = _card(card, target, config)

    def tell(event: TrainingEvent) -> None:
        for callback in callbacks:
            callback(event)

    prepared = prepare(
        given,
        config,
        on_skip=lambda path, reason: tell(PhotoSkipped(path, reason)),
        on_painting_skip=lambda path, reason: tell(PaintingSkipped(path, reason)),
    )
    state = _resumed(prepared) if resume else None
    tell(_started(prepared, state))
    styles = _shown_styles(prepared)
    final = Trainer(
        prepared.recipe,
        prepared.sampler(),
        config,
        checkpoint=prepared.checkpoint,
        facts=prepared.facts,
        state=state,
        preview=_Previews(prepared, styles, tell),
        callbacks=callbacks,
    ).run()
    losses = held_out_losses(prepared.recipe, prepared.photos, config, final.constants, styles) or _last(final, config)
    if card is not None:
        said = {"held-out photos": len(prepared.photos.held_out), **_rounded(losses), "curve": _curve(final)}
        card = replace(card, losses=said)
    prepared.recipe.save(target, card)
    report = _report(prepared, final, target, card, losses)
    write_atomically(prepared.folder / "report.json", json.dumps(report.to_json(), indent=2).encode())
    return report


def _card(card: StyleCard | None, target: Path, config: TrainingConfig) -> StyleCard | None:
    if config.any_style:
        if card is not None:
            raise InputError(f"method {config.method!r} learns no single painting that a card could describe")
        return None
    known = card or StyleCard(name=target.stem, title=target.stem)
    return replace(known, name=target.stem, method=config.method, width=config.width)


def _started(prepared: Prepared, state: TrainingState | None) -> TrainingStarted:
    any_style = prepared.any_style
    return TrainingStarted(
        state.step if state else 0,
        prepared.config.steps,
        len(prepared.photos.paths),
        len(prepared.photos.held_out),
        prepared.recipe.stroke_layer,
        prepared.facts["precision"],
        paintings=len(any_style.paintings.paths) if any_style else 1,
        held_out_paintings=len(any_style.paintings.held_out) if any_style else 0,
        decoder=any_style.decoder if any_style else "",
    )


def _report(
    prepared: Prepared, final: TrainingState, target: Path, card: StyleCard | None, losses: Mapping[str, float]
) -> TrainingReport:
    any_style = prepared.any_style
    return TrainingReport(
        target,
        card,
        final.step,
        final.skipped,
        len(prepared.photos.skipped),
        final.seconds,
        losses,
        method=prepared.config.method,
        skipped_paintings=len(any_style.paintings.skipped) if any_style else 0,
        decoder=any_style.decoder if any_style else "",
        curve=_curve(final),
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

    def __init__(self, prepared: Prepared, styles: Sequence[Tensor], tell: TrainingCallback) -> None:
        self._prepared, self._styles, self._tell = prepared, styles, tell
        self._photos = _shown(prepared) if prepared.config.preview_every else []

    def __call__(self, state: TrainingState) -> None:
        folder = self._prepared.folder
        if self._photos:
            path = folder / f"preview-{state.step:06d}.png"
            write_preview(path, self._prepared.recipe, self._photos, self._styles)
            self._tell(PreviewWritten(path, state.step))
        draw_losses(folder / "losses.png", state.history)


def _shown(prepared: Prepared) -> list[Tensor]:
    """The largest square in the middle of each held-out photo, shrunk to a crop."""
    side = prepared.config.crop // 16 * 16
    photos = prepared.photos
    found = [pixels for path in photos.held_out[:_PREVIEWED] if (pixels := photos.read(path)) is not None]
    return [cut(pixels, side, 0.999, 0.5, 0.5).to(prepared.device) for pixels in found]


def _shown_styles(prepared: Prepared) -> list[Tensor]:
    """Crops of held-out paintings, for methods that take any style."""
    if prepared.any_style is None:
        return []
    return [style.to(prepared.device) for style in prepared.any_style.sampler.shown(_PREVIEWED)]


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

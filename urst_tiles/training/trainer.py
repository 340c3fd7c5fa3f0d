"""The loop: crops in, one optimiser step after another, checkpoints that go on bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.training.checkpoints import TrainingState, save_checkpoint
from urst_tiles.training.config import LossWeights, TrainingConfig
from urst_tiles.training.data import Batch, CropSampler
from urst_tiles.training.events import CheckpointSaved, StepFinished, StepSkipped, TrainingCallback
from urst_tiles.training.recipes import Recipe

__all__ = ["Trainer", "weighted"]

_PREPARED_ON = 8
"""Batches that constants are measured on."""

_MOST_SKIPPED = 50
"""Steps in a row without a finite gradient after which there is nothing to hope for."""


class Trainer:
    """Trains ``recipe.network`` in place: its parameters that require a gradient.

    Parameters:
        state: where an earlier training stopped; None begins.
        facts: what the losses compare with, kept in checkpoints to refuse going on with something else.
        preview: called with the state every ``config.preview_every`` steps and at the end.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: CropSampler,
        config: TrainingConfig,
        *,
        checkpoint: Path,
        facts: dict[str, str] | None = None,
        state: TrainingState | None = None,
        preview: Callable[[TrainingState], None] | None = None,
        callbacks: Sequence[TrainingCallback] = (),
    ) -> None:
        self._recipe, self._sampler, self._config = recipe, sampler, config
        self._checkpoint, self._preview, self._callbacks = checkpoint, preview, callbacks
        self._device = next(recipe.network.parameters()).device
        self._trained = [parameter for parameter in recipe.network.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(self._trained, lr=config.learning_rate)
        self.state = state or TrainingState({}, {}, config.to_json(), facts or {})
        if state is not None:
            recipe.network.load_state_dict(state.network)
            self._optimizer.load_state_dict(state.optimizer)

    def run(self, until: int | None = None) -> TrainingState:
        """Train up to step ``until``, at most ``config.steps``. Returns the state, saved.

        Raises:
            NetworkError: no step has a finite gradient any more.
            InputError: the photos have nothing to cut crops from.
            StoreError: a checkpoint cannot be written.
        """
        config, state = self._config, self.state
        until = min(until or config.steps, config.steps)
        if not state.constants:
            state.constants = self._recipe.prepare(
                self._sampler.batch(step).to(self._device) for step in range(_PREPARED_ON)
            )
        self._recipe.network.train()
        skipped_in_a_row = 0
        # The next crops are cut while this step computes.
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._sampler.batch, state.step)
            while state.step < until:
                batch = coming.result().to(self._device)
                if state.step + 1 < until:
                    coming = ahead.submit(self._sampler.batch, state.step + 1)
                skipped_in_a_row = 0 if self._step(batch) else skipped_in_a_row + 1
                if skipped_in_a_row == _MOST_SKIPPED:
                    raise NetworkError(
                        f"{_MOST_SKIPPED} steps in a row up to {state.step} had no finite gradient: the training "
                        f"has diverged. Start again with a smaller learning rate than {config.learning_rate}"
                    )
                self._now_and_then(last=state.step == until)
        return state

    def _step(self, batch: Batch) -> bool:
        """One step; False where its gradient was not finite and the weights stay."""
        start, state, config = time.perf_counter(), self.state, self._config
        rate = config.rate(state.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        terms = self._recipe.terms(batch, state.constants, stroke=config.weights.stroke > 0)
        parts = weighted(terms, config.weights)
        total = torch.stack(list(parts.values())).sum()
        torch.autograd.backward(total)
        gradient = float(nn.utils.clip_grad_norm_(self._trained, config.clip))
        state.step += 1
        if not (math.isfinite(gradient) and math.isfinite(float(total.detach()))):
            state.skipped += 1
            self._tell(StepSkipped(state.step, state.skipped))
            return False
        self._optimizer.step()
        seconds = time.perf_counter() - start
        state.seconds += seconds
        values = {name: float(part.detach()) for name, part in parts.items()}
        for name, value in {"step": float(state.step), **values, "total": float(total.detach())}.items():
            state.history.setdefault(name, []).append(value)
        self._tell(StepFinished(state.step, config.steps, values, float(total.detach()), gradient, rate, seconds))
        return True

    def _now_and_then(self, *, last: bool) -> None:
        config, step = self._config, self.state.step
        if last or step % config.checkpoint_every == 0:
            self.state.network = self._recipe.network.state_dict()
            self.state.optimizer = self._optimizer.state_dict()
            save_checkpoint(self._checkpoint, self.state)
            self._tell(CheckpointSaved(self._checkpoint, step))
        if self._preview is not None and config.preview_every and (last or step % config.preview_every == 0):
            self._preview(self.state)

    def _tell(self, event: StepFinished | StepSkipped | CheckpointSaved) -> None:
        for callback in self._callbacks:
            callback(event)


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """Each term times its weight; terms of weight 0 are left out."""
    return {name: term * getattr(weights, name) for name, term in terms.items() if getattr(weights, name)}

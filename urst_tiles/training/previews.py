"""Pictures of a training as it goes: photos before and after, and the losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from urst_tiles.runs import write_atomically
from urst_tiles.training.recipes import Recipe

__all__ = ["draw_losses", "preview_rows", "write_preview"]

_log = logging.getLogger(__name__)


def preview_rows(recipe: Recipe, photos: Sequence[Tensor], styles: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
    """A row a photo, see :meth:`Recipe.preview`; ``styles`` are given to the photos in turn.

    → (rows · side/2, pictures · side/2, 3)
    """
    rows = []
    for index, photo in enumerate(photos):
        style = styles[index % len(styles)] if styles else None
        rows.append(torch.cat(recipe.preview(photo, style), dim=-1))
    grid = (torch.cat(rows, dim=-2)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(grid.cpu().numpy())


def write_preview(path: Path, recipe: Recipe, photos: Sequence[Tensor], styles: Sequence[Tensor] = ()) -> None:
    """Write :func:`preview_rows` as a PNG.

    Raises:
        StoreError: it cannot be written.
    """
    write_atomically(path, bytes(imagecodecs.png_encode(preview_rows(recipe, photos, styles))))


def draw_losses(path: Path, history: Mapping[str, Sequence[float]]) -> bool:
    """Draw each term over the steps, smoothed, as a PNG. False, and a word in the log, where matplotlib is not
    installed."""
    if find_spec("matplotlib") is None:
        _log.info("no loss curve is drawn: matplotlib is not installed (pip install matplotlib)")
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in history.items():
        if name != "step" and values:
            axes.plot(history["step"], _smooth(values), label=name, linewidth=2 if name == "total" else 1)
    axes.set(xlabel="step", ylabel="weighted loss", yscale="log")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    unfinished = path.with_name(path.name + ".new")
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(unfinished, format="png")
    unfinished.replace(path)
    return True


def _smooth(values: Sequence[float], span: int = 25) -> NDArray[np.float64]:
    """Mean of the last ``span`` values."""
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - span, 0)
    smooth: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return smooth

"""Training styles: the stroke perceptual loss, crops from a folder of photos, and a loop that resumes bit for bit.

    photos ──crop──► thumbnail ──► network ──► style, content, tone           (collects statistics)
               └───► patch ──────► network ──► stroke perceptual loss against the enlarged thumbnail   (uses them)

Names are imported when first used: the command line reads this page without loading PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urst_tiles.training.config import LossWeights, TrainingConfig
    from urst_tiles.training.styles import TrainingReport, train_style
    from urst_tiles.training.vgg import LossNetwork, load_loss_network

_HOMES = {
    "LossNetwork": "vgg",
    "LossWeights": "config",
    "TrainingConfig": "config",
    "TrainingReport": "styles",
    "load_loss_network": "vgg",
    "train_style": "styles",
}

__all__ = ["LossNetwork", "LossWeights", "TrainingConfig", "TrainingReport", "load_loss_network", "train_style"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'urst_tiles.training' has no attribute {name!r}")
    return getattr(import_module(f"urst_tiles.training.{_HOMES[name]}"), name)

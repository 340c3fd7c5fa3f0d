"""What one method's training adds to the loop: which network, the loss of a batch, and how the result is kept.

A method is one class here, in its own file. The stroke perceptual term is the same for all of them.
"""

from __future__ import annotations

from urst_tiles.training.recipes.adain import AdaINRecipe
from urst_tiles.training.recipes.base import Recipe, stroke_between
from urst_tiles.training.recipes.johnson import JohnsonRecipe, johnson_network, stroke_term
from urst_tiles.training.recipes.linear_wct import LinearWCTRecipe

__all__ = [
    "AdaINRecipe",
    "JohnsonRecipe",
    "LinearWCTRecipe",
    "Recipe",
    "johnson_network",
    "stroke_between",
    "stroke_term",
]

"""Convolutions in programs made for the processor at hand, written in LLVM's language and translated by llvmlite.

:mod:`~urst_tiles.engines.llvm.rewriting` puts them into a network; it and what it imports need llvmlite, the rest does
not.
"""

from __future__ import annotations

from urst_tiles.engines.llvm.machine import Processor, UntranslatedError, is_installed, known_processor, processor

__all__ = ["Processor", "UntranslatedError", "is_installed", "known_processor", "processor"]

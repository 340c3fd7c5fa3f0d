"""export_network(): a network, frozen with a raster's statistics, as a file that other programs run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from urst_tiles import __version__
from urst_tiles.errors import InputError, StoreError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.onnx import onnx_bytes
from urst_tiles.options import RunKeywords, RunOptions
from urst_tiles.preparing import open_raster
from urst_tiles.running import freeze_for
from urst_tiles.runs import write_atomically
from urst_tiles.sources.colour import Colours
from urst_tiles.statistics import Statistics

__all__ = ["export_network"]


def export_network(
    network: StyleNetwork,
    target: str | Path,
    *,
    statistics: Statistics | str | Path | None = None,
    raster: object = None,
    overwrite: bool = False,
    **options: Unpack[RunKeywords],
) -> Path:
    """Write a network, frozen, as ONNX: an image to an image, (batch, 3, height, width) float32 RGB in [0, 1].

    Height and width are any multiples of the stride from the minimum on. Stride, halo and minimum in pixels, the hash
    of the statistics and the method stand in the model's metadata.

    Parameters:
        network: from :func:`~urst_tiles.load_network` or :func:`~urst_tiles.load_style`.
        target: the file, a name ending in .onnx; it appears when it is whole.
        statistics: what the network is frozen with, or the file they stand in: ``urst/statistics.safetensors`` inside
            every result; or
        raster: a path, URL, array or Source, whose thumbnail is measured. One of the two.
        overwrite: replace a file that stands there.
        options: of how the raster is read, and the thumbnail's size: see :class:`~urst_tiles.options.RunOptions`.

    Returns:
        The file.

    Raises:
        UrstTilesError: with one clear line; nothing half-written is left.
    """
    path, wanted = Path(os.fspath(target)), RunOptions(**options)
    if path.suffix != ".onnx":
        raise InputError(f"{path} does not end in .onnx; a network is written in no other format")
    if path.exists() and not overwrite:
        raise StoreError(f"{path} is there already; give another name, or use overwrite (--overwrite)")
    if (statistics is None) == (raster is None):
        raise InputError(
            "a network is frozen with statistics: give either their file (--statistics) or a raster whose thumbnail is "
            "measured (--raster)"
        )
    if raster is None:
        if network.wants_content:
            raise InputError("this network takes the raster's colours: give the raster (--raster), not statistics")
        used = statistics if isinstance(statistics, Statistics) else Statistics.load(str(statistics))
        frozen = network.freeze(used)
    else:
        source = open_raster(raster, wanted)
        colours = Colours.of(source.info, wanted.output_profile)
        frozen, used = freeze_for(source, network, None, wanted.thumbnail, colours)
    facts = {
        "urst-tiles": __version__,
        "method": network.name,
        "title": network.title,
        "licence": network.licence,
        "weights": network.weights_hash,
        "statistics": used.hash(),
    }
    write_atomically(path, onnx_bytes(frozen.cpu(), facts))
    return path

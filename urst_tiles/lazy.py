"""stylize_array(): the result as a lazy Dask array; a block asked for costs that block and nothing else."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from urst_tiles.deployment import Deployment
from urst_tiles.engines.base import Engine
from urst_tiles.engines.choosing import EngineName, make_engine
from urst_tiles.engines.torch import Precision
from urst_tiles.geometry import TilePlan, Window
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.options import RunKeywords, RunOptions
from urst_tiles.planning import plan_run
from urst_tiles.preparing import open_raster
from urst_tiles.running import freeze_for
from urst_tiles.shards import is_hidden
from urst_tiles.sources.base import Pixels, Source
from urst_tiles.sources.colour import Colours
from urst_tiles.sources.masked import Masked
from urst_tiles.statistics import Statistics
from urst_tiles.strips import cut_of, run_tiles

if TYPE_CHECKING:
    import dask.array

__all__ = ["stylize_array"]


def stylize_array(
    source: object,
    network: StyleNetwork,
    *,
    statistics: Statistics | None = None,
    **options: Unpack[RunKeywords],
) -> dask.array.Array:
    """The stylized raster as a Dask array (height, width, 3 or 4) of the source's dtype, one chunk a core.

    The thumbnail is read and its statistics are collected now; windows are read and run when chunks are computed. A
    slice computes the windows it touches and equals the same part of the full result.

    Parameters:
        source: a path, URL, NumPy, Zarr or Dask array, or a Source.
        network: from :func:`~urst_tiles.load_network` or :func:`~urst_tiles.load_style`.
        statistics: used instead of the thumbnail's.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        UrstTilesError: with one clear line. A window that cannot be read raises when its chunk is computed.
    """
    import dask.array as da

    wanted = RunOptions(**options)
    raster = open_raster(source, wanted)
    planned = plan_run(raster, network, wanted, deployment=Deployment(), time_it=False)
    tiles, colours = planned.tiles, planned.colours
    frozen, _ = freeze_for(raster, network, statistics, wanted.thumbnail, colours)
    made = _EngineParts(planned.engine, wanted.device, wanted.precision, wanted.device_budget)
    runner = _BlockRunner(raster, frozen, tiles, colours, made)
    region, bands = tiles.region, 3 + raster.info.alpha
    lazy: dask.array.Array = da.map_blocks(
        runner,
        chunks=(_chunks(region.height, tiles.core), _chunks(region.width, tiles.core), (bands,)),
        dtype=np.dtype(raster.info.dtype),
        meta=np.empty((0, 0, 0), dtype=raster.info.dtype),
        # The array is what these objects are now: a name of its own keeps Dask from hashing the weights.
        name=f"stylize-{uuid.uuid4().hex}",
    )
    return lazy


def _chunks(length: int, side: int) -> tuple[int, ...]:
    full, rest = divmod(length, side)
    return (side,) * full + ((rest,) if rest else ())


@dataclass(frozen=True, slots=True)
class _EngineParts:
    """What an engine is made of where a chunk is computed, beside the network."""

    engine: EngineName
    device: str
    precision: Precision
    device_memory: int | None


class _BlockRunner:
    """Computes one chunk. Pickles as its parts; the engine is made where it runs, once."""

    def __init__(
        self,
        source: Source,
        network: FrozenNetwork,
        tiles: TilePlan,
        colours: Colours,
        made: _EngineParts,
    ) -> None:
        self._parts = (source, network, tiles, colours, made)
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_BlockRunner, self._parts)

    def __call__(self, *, block_info: dict[Any, Any] | None = None) -> Pixels:
        source, _, tiles, colours, _ = self._parts
        if block_info is None:
            return np.empty((0, 0, 0), dtype=source.info.dtype)
        (row, row_end), (col, col_end), _ = block_info[None]["array-location"]
        region = tiles.region
        core = Window(region.col_off + col, region.row_off + row, col_end - col, row_end - row)
        parts = tiles.tiles_in(core)
        if is_hidden(source, parts):
            return np.zeros((core.height, core.width, 3 + source.info.alpha), dtype=source.info.dtype)
        window, masked = parts[0].window.hull(parts[-1].window), isinstance(source, Masked)
        block = source.read(window)
        info, engine = source.info, self._made_engine()
        picture = run_tiles(parts, core, cut_of(block, window), info, engine, 1, blank=masked, colours=colours)
        return cast("Pixels", np.ascontiguousarray(picture.transpose(1, 2, 0)))

    def _made_engine(self) -> Engine:
        _, network, _, _, made = self._parts
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(
                    network,
                    engine=made.engine,
                    device=made.device,
                    precision=made.precision,
                    device_memory=made.device_memory,
                )
            return self._engine

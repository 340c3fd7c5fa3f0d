"""What a run's target and processes are, as far as its plan goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from urst_tiles.errors import InputError
from urst_tiles.objects import is_url
from urst_tiles.stores import Exporter, exporter_for

__all__ = ["Deployment", "cores"]


def cores() -> int:
    """Of this machine's processor, those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Deployment:
    """A format, where it is written, and by how many processes."""

    exporter: Exporter | None = None
    # what writes the target when the store is whole; None where the store is the target
    uploaded: bool = False
    # every shard is held whole, encoded, until an object store has it
    workers: int = 0
    # processes that the run starts for its shards; 0: it is one process
    alone: bool = False
    # whether this process alone runs all the shards, from the first to the last

    @staticmethod
    def of(target: str | Path | None, workers: int | None = None, *, alone: bool = True) -> Deployment:
        """``alone``: that nobody else runs shards, as far as the caller knows.

        Raises:
            InputError: no format has such a name, or none that can be written there, or there is no such number of
                workers.
        """
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise InputError(f"workers must be a whole number of at least 1, not {workers!r}")
        alone = alone and workers is None
        if target is None:
            return Deployment(workers=workers or 0, alone=alone)
        exporter, uploaded = exporter_for(target), is_url(target)
        if exporter.name == "omezarr":
            return Deployment(None, uploaded, workers or 0, alone)
        if uploaded:
            raise InputError(
                f"{target}: only an OME-Zarr can be written there; name a .zarr, or a local path for {exporter.title}"
            )
        return Deployment(exporter, workers=workers or 0, alone=alone)

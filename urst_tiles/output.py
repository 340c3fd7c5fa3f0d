"""What a run's target is, as far as its plan goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from urst_tiles.errors import InputError
from urst_tiles.objects import is_url
from urst_tiles.stores import Exporter, exporter_for

__all__ = ["Output"]


@dataclass(frozen=True, slots=True)
class Output:
    """A format, and whether it is written to an object store."""

    exporter: Exporter | None = None
    # what writes the target when the store is whole; None where the store is the target
    uploaded: bool = False
    # every shard is held whole, encoded, until the service has it

    @staticmethod
    def of(target: str | Path | None) -> Output:
        """
        Raises:
            InputError: no format has such a name, or none that can be written there.
        """
        if target is None:
            return Output()
        exporter, uploaded = exporter_for(target), is_url(target)
        if exporter.name == "omezarr":
            return Output(uploaded=uploaded)
        if uploaded:
            raise InputError(
                f"{target}: only an OME-Zarr can be written there; name a .zarr, or a local path for {exporter.title}"
            )
        return Output(exporter)

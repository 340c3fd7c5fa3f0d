"""What a run did, as a value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urst_tiles.engines.choosing import describe_engine
from urst_tiles.memory import peak_memory
from urst_tiles.options import Part
from urst_tiles.running import Run, Tally

__all__ = ["RunReport", "make_report"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    target: Path | str
    # a URL's text
    width: int
    # of the result, in pixels
    height: int
    shards: int
    # computed by this run
    shards_before: int
    # done by earlier, interrupted runs
    shards_empty: int
    # of both, those that a mask or alpha hides: 0 everywhere and not written
    seconds: float
    # from call to return
    seconds_shards: float
    # of these, for the shards; the rest is start-up, statistics, pyramid and export
    megapixels_per_second: float
    # pixels produced by this run over seconds_shards
    peak_memory: int
    # resident, in bytes: of this process since it started, or, with workers, of all processes together at most
    memory_estimate: int
    # the plan's, in bytes
    engine: str
    window: int
    halo: int
    statistics: str
    # hash of the statistics
    notes: tuple[str, ...]
    # what was changed on the way or should be known, one sentence each
    part: str | None = None
    # "i/n" where only a part of the shards was asked for
    finished: bool = True
    # whether the target stands; the parts of a run leave that to the last of them
    batch: int = 0
    # windows run at a time in the end; 0 where none were run
    device_peak: int | None = None
    # the most bytes of a GPU that a process has held, CUDA's own context left out; None where the run was not on one
    device_estimate: int | None = None
    # the plan's, in bytes, CUDA's context included

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "target": str(self.target), "notes": list(self.notes)}


def make_report(
    run: Run,
    tally: Tally,
    part: Part | None,
    shards: int,
    seconds_shards: float,
    seconds: float,
    *,
    finished: bool,
) -> RunReport:
    """The report of a run that came to its end; ``shards`` were to be done by it, in all."""
    tiles = run.plan.tiles
    notes = list(run.plan.notes)
    batch = tally.batch
    if 0 < batch < run.plan.batch:
        were = "was" if batch == 1 else "were"
        notes.append(f"{run.plan.batch} windows a call were too much for the GPU; {batch} {were} run at a time")
    if run.statistics.degenerate:
        notes.append(
            "the thumbnail is nearly blank: the statistics of "
            f"{len(run.statistics.degenerate)} layers are degenerate and amplify what little there is"
        )
    return RunReport(
        target=run.site.target,
        width=tiles.region.width,
        height=tiles.region.height,
        shards=tally.shards,
        shards_before=shards - tally.shards,
        shards_empty=tally.empty,
        seconds=seconds,
        seconds_shards=seconds_shards,
        megapixels_per_second=tally.pixels / max(seconds_shards, 1e-9) / 1e6,
        peak_memory=max(peak_memory(), tally.memory),
        memory_estimate=run.plan.memory.bytes,
        engine=describe_engine(run.plan.engine, run.options.device, run.options.precision),
        window=tiles.window,
        halo=tiles.halo,
        statistics=run.statistics.hash(),
        notes=tuple(notes),
        part=None if part is None else str(part),
        finished=finished,
        batch=batch,
        device_peak=tally.device_peak or None,
        device_estimate=None if run.plan.memory.device is None else run.plan.memory.device.bytes,
    )

"""Whole runs of benchmarks/gpu.py: one a process, watched, and its engine alone on the same windows afterwards.

The engine alone runs the windows of the run's plan from memory, or a share of them where there are many, in as many
calls at the same time as a run on a GPU has shards in flight. See benchmarks/pipeline.py for what a run sustains.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import pipeline
from benchmarks.counting import Phases
from benchmarks.engines import engine_of, run_options
from benchmarks.gpu_watch import Watch, points, query, summary, thinned
from benchmarks.memory import network_of
from benchmarks.pipeline import _slope, pieces_of
from urst_tiles import collect_statistics, open_source, plan, stylize
from urst_tiles.clusters import visible_gpus
from urst_tiles.events import Event, TilesFinished

__all__ = ["POINTS", "WANTED", "Alone", "beside_tensors", "measured", "options", "run_line", "sustained"]

WANTED = 0.90
"""Of its engine's speed, what a run on a GPU is to sustain."""
POINTS = 240
"""Of a run's utilisation, that are told."""
_MIB = 2**20


def measured(settings: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """Run and report. ``settings``: raster, network (see benchmarks/memory.py), engine, precision, window, windows."""
    phases, told = Phases(), list[tuple[float, int, int]]()

    def listen(event: Event) -> None:
        phases(event)
        if isinstance(event, TilesFinished):
            told.append((time.time(), event.shard, event.pixels))

    target, started = Path(settings["raster"]).with_suffix(".zarr"), time.time()
    with watch:
        report = stylize(
            settings["raster"],
            target,
            network=network_of(settings["network"]),
            overwrite=True,
            callbacks=[listen],
            **options(settings),
        )
    phases.end()
    alone = Alone(settings)
    speed, tiles = alone.pixels_per_second(settings["windows"]), alone.plan.tiles
    megapixels, last = report.width * report.height / 1e6, told[-1][0] if told else started
    pace = sustained(told, [sum(tile.window.area for tile in shard.tiles) / shard.core.area for shard in tiles])
    device, gpu = alone.plan.memory.device, summary(watch.samples, told[0][0] if told else started, last)
    return {
        "megapixels": megapixels,
        "engine": report.engine,
        "seconds": report.seconds,
        "seconds_by_phase": {name: facts["seconds"] for name, facts in phases.to_json().items()},
        "megapixels_per_second": megapixels / report.seconds,
        "seconds_per_100_megapixels": 100 * report.seconds / megapixels,
        "megapixels_per_second_of_shards": report.megapixels_per_second,
        "megapixels_per_second_alone": speed / tiles.overhead / 1e6,
        "sustained_of_alone": None if pace is None else pace / speed,
        "shards_of_alone": tiles.window_pixels / report.seconds_shards / speed,
        "peak_bytes": report.peak_memory,
        "estimate_bytes": report.memory_estimate,
        "device_peak_bytes": report.device_peak,
        "device_estimate_bytes": None if device is None else device.bytes,
        "window": report.window,
        "halo": report.halo,
        "batch": report.batch,
        "in_flight": alone.plan.in_flight,
        "notes": list(report.notes),
        "gpu": {**gpu, "beside_tensors_bytes": beside_tensors(gpu, report.device_peak), "note": watch.note},
        "first_and_last_window": [told[0][0] - started, last - started] if told else None,
        "points": thinned(points(watch.samples, started), POINTS),
    }


def beside_tensors(gpu: dict[str, Any], device_peak: int | None) -> int | None:
    """Bytes of the GPU that were taken meanwhile and are none of PyTorch's: CUDA's context, and the libraries' kernels.
    Where no other process took any."""
    before, peak = gpu["memory_before_bytes"], gpu["memory_peak_bytes"]
    return None if before is None or device_peak is None else max(0, peak - before - device_peak)


def options(settings: dict[str, Any]) -> dict[str, Any]:
    """As for stylize()."""
    window = {} if settings["window"] is None else {"window": settings["window"]}
    return {**run_options(settings["engine"]), "precision": settings["precision"], **window}


def sustained(told: Iterable[tuple[float, int, int]], overheads: list[float]) -> float | None:
    """Windows' pixels a second from (time, shard, kept pixels); None where too few are told. ``overheads``: pixels
    that the network is given for each that is kept, by shard."""
    given = [(at, pixels * overheads[shard]) for at, shard, pixels in told]
    return _slope(given) if len(given) > 2 else None


class Alone(pipeline.Child):
    """The engine of a run by itself, in any precision."""

    def __init__(self, settings: dict[str, Any]) -> None:
        raster = settings["raster"]
        self._network = network_of(settings["network"])
        self._statistics = collect_statistics(self._network, open_source(raster).thumbnail(256))
        self._plan = self.plan = plan(raster, self._network, time_it=False, **options(settings))
        frozen = self._network.freeze(self._statistics)
        self._engine = engine_of(settings["engine"], frozen, precision=settings["precision"], calls=self._plan.calls)

    def pixels_per_second(self, most: int) -> float:
        """Of windows, halos included; about ``most`` windows are run, in the shares of their sizes."""
        calls = self._calls()
        fewer = max(1, -(-sum(call[0] * times for call, times in calls.items()) // most))
        pieces = {call: pieces_of(*call) for call in calls}
        for each in pieces.values():  # what is compiled or set up for a size does not count
            self._engine.run(each)
        every = [pieces[call] for call, times in calls.items() for _ in range(-(-times // fewer))]
        threads = self._plan.in_flight if torch.cuda.is_available() else self._plan.calls
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self._engine.run, every):
                pass
        return float(sum(piece.window[..., 0].size for each in every for piece in each)) / (
            time.perf_counter() - started
        )


def run_line(found: dict[str, Any]) -> str:
    """For people."""
    head = f"{found['method']}, {found['asked']} {found['precision']}, {found['width']} x {found['height']}"
    if "error" in found:
        return f"{head}: {found['error']}"
    share, gpu = found["sustained_of_alone"], found["gpu"]
    busy = gpu["mean_utilisation"]
    device = found["device_peak_bytes"]
    return "; ".join(
        [
            f"{head}: {found['seconds']:.1f} s, {found['megapixels_per_second']:.2f} MP/s, "
            f"{found['seconds_per_100_megapixels']:.1f} s per 100 megapixels",
            "too few windows to tell what it sustains"
            if share is None
            else f"sustains {share:.2f} of the engine alone" + (f", less than {WANTED}" if share < WANTED else ""),
            f"peak {found['peak_bytes'] // _MIB} MiB" + (f", GPU {device // _MIB} MiB" if device else ""),
            str(gpu["note"] or "utilisation was not told")
            if busy is None
            else f"GPU busy {busy:.0f} %, under half in {100 * gpu['share_below_half']:.0f} % of the samples",
        ]
    )


if __name__ == "__main__":
    chosen = (*visible_gpus("cuda"), "0")[0]
    settings: dict[str, Any] = json.loads(sys.argv[sys.argv.index("--child") + 1])
    print(json.dumps(measured(settings, Watch(query(chosen)))))

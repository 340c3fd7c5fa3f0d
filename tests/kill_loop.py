"""A run in forked children, each of which kills itself at a random moment; the next one goes on.

Forked from one process that has imported everything, so that a life costs less than a second. A moment is one at which
something reaches the disk: before a flush, a rename, an append to the ledger, and between two tiles of an export.

    python -m tests.kill_loop SOURCE FOLDER KILLS SEED
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tree
from urst_tiles import load_network, plan, stylize
from urst_tiles.events import Event, PhaseProgress

Moment = Callable[[], None]
NETWORK = load_network("identity")
CREATION = 20
"""So many moments has the creation of a store; a run's first child dies in one of them, or none might in twenty."""
HORIZON = 70
"""A child dies before this moment, or ends by itself: a third of what a whole run of the test's raster has."""


def main(source: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Runs until ``kills`` children were killed and the last run is whole: the phases they died in and the results."""
    rng, killed, finished = random.Random(seed), 0, 0
    calm = folder / "calm.tif"
    # Whatever is imported late is imported here, once; no libvips, which does not survive a fork.
    plan(np.zeros((64, 64, 3), np.uint8), NETWORK, window=32, time_it=False)
    assert child(source, calm, kill_at=0) == 0
    wanted = results_of(calm)
    left: set[str] = set()
    while killed < kills:
        target = folder / f"rough{finished}.tif"
        whole, before = False, CREATION
        while (status := child(source, target, kill_at=rng.randrange(1, before))) == -signal.SIGKILL:
            killed, before = killed + 1, HORIZON
            # Killed when all was done: the next one sweeps up and says that the target exists.
            whole = target.exists() and not target.with_name(target.name + ".partial.zarr").exists()
            left.update(path.name.split("-")[0] for path in folder.iterdir() if path.name.startswith(target.name))
        assert status == whole, status
        assert results_of(target) == wanted, f"{target.name} differs"
        assert target.read_bytes() == calm.read_bytes()
        names = {path.name for path in folder.iterdir() if path.name.startswith(target.name)}
        assert names == {target.name, f"{target.name}.zarr"}, names
        finished += 1
        target.unlink()
        shutil.rmtree(target.with_name(target.name + ".zarr"))
    return {"kills": killed, "runs": finished, "left": sorted(name.split(".tif")[-1] for name in left)}


def results_of(target: Path) -> dict[str, str]:
    return tree(target.with_name(target.name + ".zarr"))


def child(source: Path, target: Path, *, kill_at: int) -> int:
    """One life, in a process of its own: its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        moment = dying_at(kill_at)
        for name in ("fsync", "replace", "rename"):
            setattr(os, name, watched(getattr(os, name), moment))

        def watch(event: Event) -> None:
            if isinstance(event, PhaseProgress) and event.name == "export":
                moment()

        settings: dict[str, Any] = {"window": 32, "thumbnail": 64, "keep_store": True}
        stylize(source, target, network=NETWORK, callbacks=[watch], **settings)
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def dying_at(kill_at: int) -> Moment:
    seen, lock = 0, threading.Lock()

    def moment() -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return moment


def watched(function: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        moment()
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    raster, place, count, start = sys.argv[1:]
    sys.stdout.write(json.dumps(main(Path(raster), Path(place), int(count), int(start))))

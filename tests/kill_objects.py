"""A run into an object store in forked children, each of which kills itself at a chosen put; the next one goes on.

Forked from one process that has imported everything and has not connected yet, so that a life costs about a second.

    python -m tests.kill_objects SOURCE URL MOMENT...

A moment is a number, that of the put before which the child dies, or how the name of an object ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import s3fs

from tests.kill_loop import NETWORK
from urst_tiles import plan, stylize
from urst_tiles.objects import Objects


def main(source: Path, url: str, moments: list[str]) -> list[int]:
    """How each life ended: -9 for those that died at their moment, 0 for the last one, which has none."""
    import numpy as np

    assert s3fs  # imported here, once
    plan(np.zeros((64, 64, 3), np.uint8), NETWORK, window=32, time_it=False)
    return [life(source, url, moment) for moment in [*moments, ""]]


def life(source: Path, url: str, moment: str) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        for name in ("put", "create"):
            setattr(Objects, name, dying(getattr(Objects, name), moment))
        stylize(source, url, network=NETWORK, window=32, thumbnail=64)
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


_lock = threading.Lock()
_seen: list[str] = []


def dying(function: Callable[..., Any], moment: str) -> Callable[..., Any]:
    def call(objects: Objects, key: str, data: Any) -> Any:
        with _lock:
            _seen.append(key)
            if moment in (str(len(_seen)), key):
                os.kill(os.getpid(), signal.SIGKILL)
        return function(objects, key, data)

    return call


if __name__ == "__main__":
    raster, target, *wanted = sys.argv[1:]
    sys.stdout.write(json.dumps(main(Path(raster), target, wanted)))

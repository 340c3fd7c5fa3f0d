"""Kill a run at random again and again: every result must be byte for byte that of an undisturbed run.

    python -m benchmarks.soak [--kills 200] [--seed 1] [--side 400]

Kills strike at moments that reach the disk: in the creation of the store, in shards, pyramid and export.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.common import save
from tests.kill_loop import main as kill_loop
from tests.support import picture, write_tiff


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", type=int, default=400, help="of the raster, in px")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = write_tiff(Path(folder) / "in.tif", picture(given.side, given.side))
        (Path(folder) / "runs").mkdir()
        started = time.perf_counter()
        # Raises where a result differs.
        result = kill_loop(source, Path(folder) / "runs", given.kills, given.seed)
    result |= {"seed": given.seed, "side": given.side, "seconds": round(time.perf_counter() - started, 1)}
    print(save("soak", result), result)


if __name__ == "__main__":
    main()

"""Several processes on this machine, each with a GPU of its own where there are any.

python pipelines/local_workers.py scan.tif print.tif --style starry-night --workers 4 [--memory 4GiB]

The processes are started for this run and end with it; one that dies is started again. The guard at the end is needed:
they import this file.
"""

from __future__ import annotations

import argparse
import sys

from urst_tiles import UrstTilesError, plan, stylize
from urst_tiles.memory import format_bytes
from urst_tiles.progress import ProgressBar
from urst_tiles.styles import DEFAULT_STYLE, load_style


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Stylize a raster in several processes of this machine.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--style", default=DEFAULT_STYLE)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", help="budget for all processes together, like 4GiB")
    given = parser.parse_args(words)
    network = load_style(given.style)
    planned = plan(
        given.source, network, target=given.target, memory=given.memory, workers=given.workers, time_it=False
    )
    print(f"{len(planned.tiles)} shards, {given.workers} workers, at most {format_bytes(planned.memory.bytes)} in all")
    with ProgressBar() as bar:
        report = stylize(
            given.source,
            given.target,
            network=network,
            workers=given.workers,
            memory=given.memory,
            callbacks=[bar],
        )
    print(f"{report.target}: {report.seconds:.0f} s, {report.megapixels_per_second:.2f} MP/s")


if __name__ == "__main__":
    try:
        main()
    except UrstTilesError as error:
        sys.exit(f"error: {error}")

"""A scan for print: look at the plan, keep to a budget, write a BigTIFF, say what happened.

python pipelines/stylize_scan.py scan.tif print.tif mosaic.pth [2GiB]
"""

from __future__ import annotations

import sys

from urst_tiles import UrstTilesError, load_network, plan, stylize
from urst_tiles.memory import format_bytes
from urst_tiles.progress import ProgressBar


def main(source: str, target: str, weights: str, memory: str = "2GiB") -> None:
    network = load_network("johnson", weights)

    # Ask before spending: nothing is read yet but the header.
    planned = plan(source, network, target=target, memory=memory)
    print(f"{planned.tiles.tile_count} windows of {planned.tiles.window} px, halo {planned.tiles.halo}")
    for part in planned.memory.peak.parts:
        print(f"  {part.name:18} {format_bytes(part.bytes):>10}  {part.reason}")
    print(f"  at most            {format_bytes(planned.memory.bytes):>10}")

    # The same call goes on with a run that was interrupted.
    with ProgressBar() as bar:
        report = stylize(source, target, network=network, memory=memory, callbacks=[bar])
    print(f"{report.target}: {report.seconds:.0f} s, {report.megapixels_per_second:.2f} MP/s")
    print(f"peak {format_bytes(report.peak_memory)}, estimated {format_bytes(report.memory_estimate)}")
    for note in report.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:5])
    except UrstTilesError as error:
        sys.exit(f"error: {error}")

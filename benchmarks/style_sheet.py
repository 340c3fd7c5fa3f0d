"""Shipped styles beside other networks on the same photo: a contact sheet to judge them by.

    python -m benchmarks.style_sheet PHOTO [--weights mosaic.pth rain_princess.pth] [--region COL,ROW,WIDTH,HEIGHT]

Writes benchmarks/results/styles.jpg: the photo, each shipped style, each network given, row by row; and styles.json
that says which is which. Statistics come from the whole photo's thumbnail; what is shown is stylized at the photo's
full size and then shrunk.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, save
from urst_tiles import StyleNetwork, load_network, load_style, open_source, stylize_array
from urst_tiles.sources.base import Source
from urst_tiles.styles import list_styles

GAP = 6


def shown(pixels: NDArray[Any], height: int) -> NDArray[np.uint8]:
    """Shrunk to a height of about ``height``, by whole pixels."""
    return open_source(np.ascontiguousarray(pixels)).thumbnail(height).astype(np.uint8)


def networks(weights: list[Path]) -> dict[str, StyleNetwork]:
    found = {card.name: load_style(card.name) for card in list_styles()}
    return found | {path.stem: load_network("johnson", path) for path in weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="johnson weights files to compare with")
    parser.add_argument("--region", help="COL,ROW,WIDTH,HEIGHT of the photo to show")
    parser.add_argument("--height", type=int, default=360, help="of each picture, in pixels")
    parser.add_argument("--columns", type=int, default=3)
    arguments = parser.parse_args()
    source: Source = open_source(open_source(arguments.photo).thumbnail(2000))
    pictures: dict[str, NDArray[np.uint8]] = {}
    whole = stylize_array(source, load_network("identity"), region=arguments.region).compute()
    pictures["photo"] = shown(whole, arguments.height)
    for name, network in networks(arguments.weights).items():
        result = stylize_array(source, network, region=arguments.region).compute()
        pictures[name] = shown(result, arguments.height)
    cells = [np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for picture in pictures.values()]
    while len(cells) % arguments.columns:
        cells.append(np.full_like(cells[0], 255))
    rows = [np.concatenate(cells[i : i + arguments.columns], 1) for i in range(0, len(cells), arguments.columns)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "styles.jpg").write_bytes(imagecodecs.jpeg8_encode(np.concatenate(rows, 0), level=88))
    save("styles", {"photo": Path(arguments.photo).name, "pictures": list(pictures), "columns": arguments.columns})


if __name__ == "__main__":
    main()

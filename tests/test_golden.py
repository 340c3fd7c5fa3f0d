"""A small picture a method, made with real published weights and looked at by people; a change shows as a histogram.

    python -m tests.test_golden

writes the pictures anew: look at each before it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.networks_support import SHARED, needs_shared, weights
from urst_tiles import collect_statistics, load_network, open_source, stylize_array

FOLDER = Path(__file__).parent / "golden"
STYLE = SHARED / "images" / "styles" / "starry_night.jpg"
PHOTO = SHARED / "images" / "photos" / "william_bout_lighthouse.jpg"

CASES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    # picture: method, weights, how they are loaded
    "johnson-mosaic": ("johnson", "johnson/mosaic.pth", {}),
    "johnson-rain-princess": ("johnson", "johnson/rain_princess.pth", {}),
    "wct": ("wct", "wct", {"style": STYLE, "alpha": 0.8}),
    "collaborative": ("collaborative", "collaborative", {"style": STYLE, "alpha": 0.8}),
    "microast": ("microast", "microast", {"style": STYLE}),
}

LARGEST, SHARE = 3, 0.005
"""Grey levels, and the share of values off by more than one: what another build of PyTorch may change."""

Picture = NDArray[np.uint8]


def made(method: str, files: str, options: Mapping[str, Any]) -> Picture:
    """(H, W, 3): the photo, 160 px high, through the tiled pipeline, in windows with cores of 80 px."""
    photo = open_source(PHOTO).thumbnail(160).astype(np.uint8)
    network = load_network(method, weights(files), style_size=256, **options)
    statistics = collect_statistics(network, photo)
    result: Picture = stylize_array(photo, network, statistics=statistics, window=2 * network.halo + 80).compute()
    return result


def histogram(found: Picture, golden: Picture) -> str:
    """How many values are off by how many grey levels."""
    off = np.abs(found.astype(int) - golden).ravel()
    edges = (0, 1, 2, 4, 8, 16, 32, 256)
    parts = [f"{low} to {high - 1}: {((off >= low) & (off < high)).sum()}" for low, high in pairwise(edges)]
    return f"largest {off.max()}, mean {off.mean():.3f}; grey levels off: " + ", ".join(parts)


@needs_shared
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    golden = imagecodecs.png_decode((FOLDER / f"{name}.png").read_bytes())
    found = made(*CASES[name])
    assert found.shape == golden.shape
    off = np.abs(found.astype(int) - golden)
    assert off.max() <= LARGEST, histogram(found, golden)
    assert (off > 1).mean() <= SHARE, histogram(found, golden)


def test_the_histogram_tells_how_far_a_picture_is_off() -> None:
    one = np.zeros((4, 4, 3), np.uint8)
    other = one.copy()
    other[0, 0] = (1, 5, 200)
    said = histogram(other, one)
    assert said.startswith("largest 200, mean 4.292; grey levels off: 0 to 0: 45, 1 to 1: 1, 2 to 3: 0, 4 to 7: 1,")
    assert said.endswith("32 to 255: 1")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        (FOLDER / f"{name}.png").write_bytes(imagecodecs.png_encode(made(*case), level=9))


if __name__ == "__main__":
    main()

"""Tiled against whole: the error of every method as the halo grows from 0 to the one its graph asks for.

    python -m benchmarks.seams PHOTO --style PAINTING --network johnson=mosaic.pth wct=FOLDER collaborative=FOLDER …

Each network is run over the whole photo and window by window with cores of ``--core`` px, with the same statistics.
Methods that are not given take part with narrow networks of random weights where ``--samples`` asks for it. Writes
benchmarks/results/seams.json and seams.png (error against halo; the paper's halo is 32) and methods.jpg: a row a
method, the whole-image run, the tiled run, and the difference of the two, 16 times enlarged in brightness.
"""

from __future__ import annotations

import argparse
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, save
from urst_tiles import StyleNetwork, collect_statistics, load_network, open_source, stylize_array
from urst_tiles.engines import TorchEngine, run_whole
from urst_tiles.networks import METHODS, sample_network
from urst_tiles.statistics import Statistics

PAPER = 32
"""Halo of the paper's published code, in pixels."""

Picture = NDArray[np.uint8]


def halos(network: StyleNetwork) -> list[int]:
    """0, 8, 16, 32 and on, up to the derived one, in multiples of the stride."""
    asked = [0, 8, 16, 32, 48, 64, 128, 192]
    fitting = sorted({-(-halo // network.stride) * network.stride for halo in asked})
    return [halo for halo in fitting if halo < network.halo] + [network.halo]


def whole(network: StyleNetwork, photo: Picture, statistics: Statistics) -> Picture:
    engine = TorchEngine(network.freeze(statistics), device="cpu", precision="float32")
    return np.ascontiguousarray(run_whole(engine, photo[None])[0].transpose(1, 2, 0)).astype(np.uint8)


def tiled(network: StyleNetwork, photo: Picture, statistics: Statistics, halo: int, core: int) -> Picture:
    side = core + 2 * halo
    result: Picture = stylize_array(photo, network, statistics=statistics, halo=halo, window=side).compute()
    return result


def error(one: Picture, other: Picture) -> dict[str, float]:
    """In grey levels of 255."""
    difference = np.abs(one.astype(np.int16) - other).max(axis=2)
    return {
        "largest": int(difference.max()),
        "mean": float(difference.mean()),
        "share_above_1": float((difference > 1).mean()),
    }


def measure(name: str, network: StyleNetwork, photo: Picture, core: int) -> tuple[dict[str, Any], list[Picture]]:
    """Errors by halo, and the three pictures of the figure's row."""
    statistics = collect_statistics(network, photo)
    expected = whole(network, photo, statistics)
    errors: dict[int, dict[str, float]] = {}
    result = expected
    for halo in halos(network):
        result = tiled(network, photo, statistics, halo, core)
        errors[halo] = error(result, expected)
        print(name, halo, errors[halo], flush=True)
    enlarged = 16 * np.abs(expected.astype(np.int16) - result)
    row = [expected, result, enlarged.clip(0, 255).astype(np.uint8)]
    facts = {"halo": network.halo, "stride": network.stride, "errors": errors}
    return facts, row


def draw(found: dict[str, dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, facts in found.items():
        errors = facts["errors"]
        shares = [100 * error["share_above_1"] for error in errors.values()]
        label = f"{name}: exact at {facts['halo']} px" + ("" if facts["published"] else " (random weights)")
        line = "-" if facts["published"] else "--"
        axes.plot(list(errors), shares, line, marker="o", markersize=4, label=label)
    axes.axvline(PAPER, color="grey", linestyle=":", label="the paper's halo")
    axes.set(xlabel="halo in px", ylabel="% of pixels off by more than one grey level")
    axes.legend(fontsize="small")
    figure.savefig(RESULTS / "seams.png", dpi=110)


def sheet(rows: list[list[Picture]], height: int) -> Picture:
    gap = 6
    cells = [
        [np.pad(shrunk(picture, height), ((0, gap), (0, gap), (0, 0)), constant_values=255) for picture in row]
        for row in rows
    ]
    return np.concatenate([np.concatenate(row, 1) for row in cells], 0)


def shrunk(picture: Picture, height: int) -> Picture:
    return open_source(np.ascontiguousarray(picture)).thumbnail(height).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--style", help="style image, for methods that take one")
    parser.add_argument("--network", nargs="+", required=True, metavar="METHOD=WEIGHTS")
    parser.add_argument("--side", type=int, default=600, help="short side that the photo is shrunk to")
    parser.add_argument("--core", type=int, default=160, help="of a window, in pixels")
    parser.add_argument("--style-size", type=int, default=512)
    parser.add_argument("--samples", action="store_true", help="other methods with random weights, in the numbers only")
    arguments = parser.parse_args()
    photo = open_source(arguments.photo).thumbnail(arguments.side)[..., :3].astype(np.uint8)
    photo = np.ascontiguousarray(photo)
    found, rows = {}, []
    for given in arguments.network:
        name, _, weights = given.partition("=")
        style = {"style": arguments.style, "style_size": arguments.style_size} if METHODS[name].takes_style else {}
        facts, row = measure(name, load_network(name, weights, **style), photo, arguments.core)
        found[name] = {"published": True, **facts}
        rows.append(row)
    others = [name for name in METHODS if name not in found and METHODS[name].takes_weights]
    for name in others if arguments.samples else []:
        facts, _ = measure(name, sample_network(name), photo, arguments.core)
        found[name] = {"published": False, **facts}
    save("seams", {"size": list(photo.shape[1::-1]), "core": arguments.core, "methods": found})
    draw(found)
    (RESULTS / "methods.jpg").write_bytes(imagecodecs.jpeg8_encode(sheet(rows, 260), level=88))


if __name__ == "__main__":
    main()

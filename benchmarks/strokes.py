"""Stroke size of results trained without and with the stroke perceptual loss: the paper's Figure 6 in numbers.

    python -m benchmarks.strokes --photos DIR --painting FILE --vgg FILE [--steps 2000] [--start STYLE.safetensors]
    python -m benchmarks.strokes --photos DIR --without A.safetensors --with B.safetensors

The first form trains twice, with the same seed and steps, λ = 0 and λ = 1; the second compares two styles that are
trained already. Held-out photos are stylized at ``--side`` px (longer side, 3000 by default) through the whole tiled
pipeline, and the textures' scale is measured in tiles of 256 px. Results go to benchmarks/results/strokes.json and
.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, save

TILE = 256
"""Side of the squares that spectra are taken of, in pixels."""
LONGEST = 64.0
"""Wavelengths above this are the photo's shapes, not strokes, in pixels."""


def spectrum(grey: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(frequency in cycles a pixel, power) of all bins, averaged over the picture's tiles, each under a Hann window."""
    line = np.hanning(TILE)
    window = line[:, None] * line[None, :]
    tiles = [
        grey[row : row + TILE, col : col + TILE]
        for row in range(0, grey.shape[0] - TILE + 1, TILE // 2)
        for col in range(0, grey.shape[1] - TILE + 1, TILE // 2)
    ]
    power = np.mean([np.abs(np.fft.rfft2((tile - tile.mean()) * window)) ** 2 for tile in tiles], axis=0)
    rows, cols = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]
    return np.hypot(rows, cols).ravel(), power.ravel()


def stroke_scale(picture: NDArray[np.uint8]) -> dict[str, float]:
    """Of (height, width, 3): mean wavelength and gradient scale of the texture, in pixels.

    ``wavelength`` is one over the mean frequency, weighted by power; ``gradient`` is 2π times the deviation of
    brightness over that of its gradient, which is the wavelength where the texture is a single wave.
    """
    frequency, power = spectrum(picture.astype(np.float64).mean(2))
    strokes = (frequency >= 1 / LONGEST) & (frequency <= 0.5)
    frequency, power = frequency[strokes], power[strokes]
    mean = float((frequency * power).sum() / power.sum())
    slope = float((frequency**2 * power).sum() / power.sum()) ** 0.5
    return {"wavelength": 1 / mean, "gradient": 1 / slope}


def enlarged(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(height, width, 3), scaled so that the longer side is ``side``."""
    import torch
    from torch.nn import functional

    height, width = (round(length * side / max(pixels.shape[:2])) for length in pixels.shape[:2])
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    scaled = functional.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return np.ascontiguousarray(scaled[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy())


def stylized(pixels: NDArray[np.uint8], weights: Path) -> NDArray[np.uint8]:
    from urst_tiles import load_network, stylize_array

    result: NDArray[np.uint8] = stylize_array(pixels, load_network("johnson", weights)).compute(scheduler="sync")
    return result


def trained(given: argparse.Namespace, stroke: float, folder: Path) -> tuple[Path, dict[str, float]]:
    from urst_tiles.training import LossWeights, TrainingConfig, train_style

    config = TrainingConfig(
        steps=given.steps,
        batch=given.batch,
        crop=given.crop,
        style_size=given.style_size,
        style_median=given.style_median,
        learning_rate=given.learning_rate,
        width=given.width,
        seed=given.seed,
        hold_out=given.hold_out,
        weights=LossWeights(stroke=stroke),
        preview_every=0,
    )
    report = train_style(
        given.photos,
        given.painting,
        folder / f"lambda-{stroke:g}.safetensors",
        vgg=given.vgg,
        encoder=given.encoder,
        config=config,
        start=given.start,
    )
    return report.weights, dict(report.losses)


def measure(given: argparse.Namespace) -> tuple[dict[str, Any], list[list[NDArray[np.uint8]]]]:
    from urst_tiles.training.data import PhotoFolder

    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        losses: dict[str, dict[str, float]] = {}
        weights = {"0": given.without, "1": given.with_}
        for name in weights:
            if weights[name] is None:
                weights[name], losses[name] = trained(given, float(name), folder)
        photos = PhotoFolder(given.photos, hold_out=given.hold_out)
        rows: list[dict[str, Any]] = []
        crops: list[list[NDArray[np.uint8]]] = []
        for path in photos.held_out:
            pixels = photos.read(path)
            if pixels is None:
                continue
            large = enlarged(pixels, given.side)
            results = {name: stylized(large, file) for name, file in weights.items()}
            scales = {name: stroke_scale(result) for name, result in results.items()}
            factor = {kind: scales["1"][kind] / scales["0"][kind] for kind in scales["0"]}
            rows.append({"photo": path.name, "size": large.shape[1::-1], "lambda": scales, "factor": factor})
            crops.append([middle(picture) for picture in (large, *results.values())])
    factors = {kind: [row["factor"][kind] for row in rows] for kind in ("wavelength", "gradient")}
    document = {
        "claim": "λ = 1 gives larger strokes than λ = 0: factor above 1",
        "how": f"held-out photos at {given.side} px, statistics from a thumbnail of 1024 px; wavelengths of 2 to "
        f"{LONGEST:g} px in tiles of {TILE} px",
        "training": training_facts(given),
        "factor": {kind: float(np.exp(np.mean(np.log(values)))) for kind, values in factors.items()},
        "photos": rows,
        "losses": losses,
    }
    return document, crops


def training_facts(given: argparse.Namespace) -> dict[str, Any]:
    if given.without is not None:
        return {"without": given.without.name, "with": given.with_.name, "said": given.note}
    names = ("steps", "batch", "crop", "style_size", "style_median", "learning_rate", "width", "seed")
    return {
        **{name: getattr(given, name) for name in names},
        "painting": given.painting.name,
        "loss network": [path.name for path in (given.vgg, given.encoder) if path is not None],
        "start": None if given.start is None else given.start.name,
    }


def middle(picture: NDArray[np.uint8], side: int = 480) -> NDArray[np.uint8]:
    row, col = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return picture[row : row + side, col : col + side]


def figure(document: dict[str, Any], path: Path) -> None:
    """A pair of bars a photo. No pictures: whoever measures may not be free to pass the photos on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 3.5), layout="constrained")
    drawn.set_canvas(FigureCanvasAgg(drawn))
    axes = drawn.subplots()
    photos = document["photos"]
    for shift, name in ((-0.2, "0"), (0.2, "1")):
        scales = [line["lambda"][name]["gradient"] for line in photos]
        bars = axes.bar(np.arange(len(photos)) + shift, scales, 0.38, label=f"λ = {name}")
        axes.bar_label(bars, fmt="%.1f")
    axes.set_xticks(range(len(photos)), [Path(line["photo"]).stem for line in photos], fontsize=8)
    axes.set_ylabel("stroke scale (gradient), px")
    axes.margins(y=0.25)
    axes.legend(loc="upper right", ncols=2)
    factor = document["factor"]
    axes.set_title(f"strokes {factor['gradient']:.2f} x (gradient), {factor['wavelength']:.2f} x (wavelength)")
    drawn.savefig(path, dpi=100)


def contact_sheet(crops: list[list[NDArray[np.uint8]]], path: Path) -> None:
    """A row a photo: its middle at 100 %, the same with λ = 0 and with λ = 1."""
    import imagecodecs

    sheet = np.concatenate([np.concatenate(row, axis=1) for row in crops])
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(sheet)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--painting", type=Path)
    parser.add_argument("--vgg", type=Path)
    parser.add_argument("--encoder", type=Path, help="gives the layers of the loss network that --vgg ends before")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--without", type=Path, help="a style trained with λ = 0")
    parser.add_argument("--with", dest="with_", type=Path, help="the same with λ = 1")
    parser.add_argument("--note", default="", help="how these two were trained, for the result")
    parser.add_argument("--keep", type=Path, help="folder for the trained styles")
    parser.add_argument("--pictures", type=Path, help="PNG to write crops of photos and results into")
    parser.add_argument("--side", type=int, default=3000)
    for name, value in (("steps", 2000), ("batch", 1), ("crop", 512), ("style-size", 960), ("width", 16), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--style-median", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--hold-out", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if (given.without is None) != (given.with_ is None):
        parser.error("give both --without and --with")
    if given.without is None and (given.painting is None or given.vgg is None):
        parser.error("give --painting and --vgg to train, or --without and --with to compare")
    return given


def main() -> None:
    given = arguments()
    document, crops = measure(given)
    path = save("strokes", document, given.results)
    figure(document, path.with_suffix(".png"))
    if given.pictures is not None:
        contact_sheet(crops, given.pictures)
    factor = document["factor"]
    print(f"strokes with λ = 1: {factor['gradient']:.2f} x (gradient), {factor['wavelength']:.2f} x (wavelength)")
    print(path)


if __name__ == "__main__":
    main()

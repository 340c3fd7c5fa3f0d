"""What the commands that read a raster and run a network have in common: their arguments, and the network they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from urst_tiles.errors import InputError
from urst_tiles.options import DEFAULT_WINDOW

__all__ = [
    "Alpha",
    "AsJson",
    "Axes",
    "Batch",
    "Channels",
    "Device",
    "DeviceMemory",
    "Engine",
    "Halo",
    "Input",
    "Level",
    "Mask",
    "Memory",
    "Network",
    "NoData",
    "Output",
    "OutputProfile",
    "PlanOutput",
    "Precision",
    "PreserveColor",
    "Quiet",
    "Range",
    "Region",
    "Style",
    "StyleSize",
    "Thumbnail",
    "Weights",
    "WindowSide",
    "Workers",
    "chosen_network",
    "demo_network",
]

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="Raster: anything libvips reads, or a Zarr/OME-Zarr store.")
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT", help="Result: .zarr (path or URL), .tif, .ome.tif, .cog.tif, .dzi, .png, .jpg, .webp."
    ),
]
PlanOutput = Annotated[
    str | None,
    typer.Argument(
        metavar="OUTPUT", help="Its export is counted; an unfinished run that stands there keeps its windows."
    ),
]
Network = Annotated[
    str | None,
    typer.Option("--network", help="Method of the network, with --weights; 'urst-tiles networks' lists them."),
]
Weights = Annotated[
    list[Path] | None, typer.Option("--weights", help="The published weights: a file, several, or their folder.")
]
Style = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="NAME|FILE[:WEIGHT]",
        help="A shipped style, instead of --network; or the style image of a network that takes one, several to mix.",
    ),
]
Alpha = Annotated[float, typer.Option("--alpha", help="Strength of the style image, 0 to 1.")]
PreserveColor = Annotated[
    bool, typer.Option("--preserve-color", help="Give the style image the raster's own colours first.")
]
StyleSize = Annotated[
    int, typer.Option("--style-size", help="Side in px that a style image is scaled to: smaller, smaller strokes.")
]
WindowSide = Annotated[
    int | None,
    typer.Option("--window", help=f"Side of a window in px. [default: {DEFAULT_WINDOW}, fitted to halo and memory]"),
]
Halo = Annotated[int | None, typer.Option("--halo", help="Rim thrown away in px. [default: derived from the network]")]
Region = Annotated[
    str | None,
    typer.Option(
        "--region", metavar="COL,ROW,WIDTH,HEIGHT", help="Only this part, with the whole raster's statistics."
    ),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="FILE", help="Grey raster of the same size, the result's alpha; black is not made."),
]
Axes = Annotated[
    str | None,
    typer.Option("--axes", metavar="AXES", help="Of an array, one letter an axis, like cyx. [default: as it says]"),
]
Level = Annotated[int | None, typer.Option("--level", help="Of a pyramid or slide; 0 is the full size. [default: 0]")]
Channels = Annotated[
    str | None,
    typer.Option(
        "--channels", metavar="R,G,B", help="Counted from 0: one or three, and maybe alpha. [default: all there are]"
    ),
]
Range = Annotated[
    str | None,
    typer.Option("--range", metavar="LO,HI", help="Numbers that are black and white. [default: as the file states]"),
]
NoData = Annotated[
    float | None,
    typer.Option("--nodata", help="Pixels of this value are transparent. [default: as the file states]"),
]
Thumbnail = Annotated[
    int, typer.Option("--thumbnail", help="Short side in px of the thumbnail that statistics come from.")
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", help="Windows a call, at most the 8 of a shard. [default: 1 on a CPU, 8 on a GPU]"),
]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Budget for the run, all its processes, like 2GiB. [default: none]")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Run in as many processes, a GPU each. [default: threads of this one]"),
]
DeviceMemory = Annotated[
    str | None, typer.Option("--device-memory", help="The same for a GPU's memory. [default: what is free there]")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Engine = Annotated[
    Literal["auto", "torch", "compile", "openvino", "llvm"],
    typer.Option("--engine", help="What runs the network; auto: on a CPU LLVM or OpenVINO, where one is installed."),
]
Precision = Annotated[
    Literal["auto", "float32", "tf32", "bfloat16", "float16"],
    typer.Option("--precision", help="Of the arithmetic; auto is float32, all others but it lose some."),
]
OutputProfile = Annotated[
    Literal["source", "srgb"],
    typer.Option("--output-profile", help="ICC profile of the result: the raster's own, or sRGB."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def chosen_network(
    network: str | None,
    weights: list[Path] | None,
    style: list[str] | None,
    alpha: float,
    *,
    preserve_color: bool,
    style_size: int,
) -> Any:
    """The StyleNetwork that these options name.

    Raises:
        InputError: they name none.
        NetworkError: its weights cannot be read.
    """
    from urst_tiles.networks import load_network
    from urst_tiles.networks.styling import parse_style
    from urst_tiles.styles import load_style

    if network is not None:
        return load_network(
            network,
            weights or None,
            style=[parse_style(text) for text in style] if style else None,
            alpha=alpha,
            preserve_color=preserve_color,
            style_size=style_size,
        )
    if style and len(style) == 1 and not weights:
        if alpha != 1.0 or preserve_color:
            raise InputError("--alpha and --preserve-color are for networks that take a style image (--network)")
        if Path(style[0]).is_file():
            raise InputError(
                f"{style[0]} is a file, not a shipped style's name; a style image needs a network that takes one "
                "(--network adain --weights FOLDER --style FILE)"
            )
        return load_style(style[0])
    raise InputError(
        "give a network and its weights (--network johnson --weights FILE) or one shipped style (--style NAME)"
    )


def demo_network(weights: Path | None, style: str | None) -> tuple[Any, str]:
    """The network of a demo and what it is, in words."""
    from urst_tiles.networks import load_network
    from urst_tiles.styles import DEFAULT_STYLE, load_style

    if weights is not None:
        return load_network("johnson", weights), f"johnson, {weights.name}"
    name = style or DEFAULT_STYLE
    return load_style(name), f"the shipped style {name}"

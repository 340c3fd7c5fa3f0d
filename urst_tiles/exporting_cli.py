# ruff: noqa: FBT002  (options of the command line)
"""``urst-tiles export``: arguments in, export(), a report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["export_command"]


def export_command(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A finished .zarr of this program: a path or URL.")],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help=".zarr, .tif/.tiff/.btf, .ome.tif, .cog.tif, .dzi, .png, .jpg or .webp; the suffix says the format.",
        ),
    ],
    kind: Annotated[
        Literal["omezarr", "bigtiff", "ome-tiff", "cog", "deepzoom", "png", "jpeg", "webp"] | None,
        typer.Option("--format", help="The format, whatever the suffix."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="JPEG, WebP, Deep Zoom: 1 to 100; 90 by default.")
    ] = None,
    compression: Annotated[
        Literal["deflate", "zstd", "lzw", "none"] | None,
        typer.Option("--compression", help="TIFFs; all are lossless; deflate by default."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", help="Side of a tile in px: TIFFs 512, Deep Zoom 254 by default.")
    ] = None,
    tile_format: Annotated[
        Literal["jpeg", "png", "webp"] | None,
        typer.Option("--tile-format", help="Deep Zoom; jpeg by default, png with alpha."),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option("--chunk", help="OME-Zarr: side of a chunk in px; the store's by default.")
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option("--shard", help="OME-Zarr: side of a shard in px, a multiple of the chunk; 0 for none."),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec", metavar="NAME[:LEVEL]", help="OME-Zarr: zstd, blosc, gzip or none; blosc:1 by default."
        ),
    ] = None,
    zarr_format: Annotated[
        int | None,
        typer.Option("--zarr-format", help="3 for OME-Zarr 0.5, 2 for OME-Zarr 0.4, without shards; 3 by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Write a finished store to another format, in bounded memory.

    Ctrl-C stops: an OME-Zarr and Deep Zoom then go on with the same command, the other formats begin again.
    """
    from urst_tiles.exporting import export
    from urst_tiles.interrupts import stop_on_signals
    from urst_tiles.memory import format_bytes
    from urst_tiles.progress import ProgressBar

    with ProgressBar(quiet=quiet) as bar, stop_on_signals() as stop:
        report = export(
            store,
            out,
            kind=kind,
            overwrite=overwrite,
            callbacks=(bar,),
            stop=stop,
            quality=quality,
            compression=compression,
            tile=tile,
            tile_format=tile_format,
            chunk=chunk,
            shard=shard,
            codec=codec,
            zarr_format=zarr_format,  # type: ignore[arg-type]  # checked where all options are
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    elif not quiet:
        memory = format_bytes(report.memory_estimate)
        lines = [f"{report.target}  {report.kind}, {report.width} x {report.height} px in {report.seconds:.1f} s"]
        typer.echo(
            "\n".join([*lines, f"memory     at most {memory}", *(f"note       {note}" for note in report.notes)])
        )

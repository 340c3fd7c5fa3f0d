"""The command line: arguments in, one call, a report out. Defaults are those of the functions it calls."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from urst_tiles import __version__
from urst_tiles.cli_options import (
    Alpha,
    AsJson,
    Axes,
    Batch,
    Channels,
    Device,
    DeviceMemory,
    Engine,
    Halo,
    Input,
    Level,
    Mask,
    Memory,
    Network,
    NoData,
    Output,
    OutputProfile,
    PlanOutput,
    Precision,
    PreserveColor,
    Quiet,
    Range,
    Region,
    Style,
    StyleSize,
    Thumbnail,
    Weights,
    WindowSide,
    Workers,
    chosen_network,
    demo_network,
)
from urst_tiles.errors import InputError, UrstTilesError
from urst_tiles.exporting_cli import export_command
from urst_tiles.interrupts import Interrupted, stop_on_signals
from urst_tiles.options import RunOptions
from urst_tiles.training.cli import train_command

__all__ = ["app", "main"]

app = typer.Typer(
    name="urst-tiles",
    help="Run style-transfer networks over rasters too large for memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes the defaults in brackets for markup and swallows them
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DEFAULTS = RunOptions()
_INTERRUPTED = "interrupted; the same command goes on where it stopped (train: with --resume)"


def _version(show: bool) -> None:
    if show:
        typer.echo(f"urst-tiles {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Common options."""


@app.command("stylize")
def stylize_command(
    source: Input,
    target: Output,
    network: Network = None,
    weights: Weights = None,
    style: Style = None,
    alpha: Alpha = 1.0,
    preserve_color: PreserveColor = False,
    style_size: StyleSize = 1024,
    window: WindowSide = _DEFAULTS.window,
    halo: Halo = _DEFAULTS.halo,
    region: Region = None,
    mask: Mask = None,
    axes: Axes = None,
    level: Level = None,
    channels: Channels = None,
    value_range: Range = None,
    nodata: NoData = None,
    thumbnail: Thumbnail = _DEFAULTS.thumbnail,
    batch: Batch = _DEFAULTS.batch,
    memory: Memory = None,
    device_memory: DeviceMemory = None,
    device: Device = _DEFAULTS.device,
    engine: Engine = _DEFAULTS.engine,
    precision: Precision = _DEFAULTS.precision,
    output_profile: OutputProfile = _DEFAULTS.output_profile,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target or an unfinished run.")] = False,
    keep_store: Annotated[
        bool, typer.Option("--keep-store", help="Keep the OME-Zarr that another format is made from.")
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", help="Folder for rasters that have to be unpacked first. [default: beside OUTPUT]"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler, tcp://host:port.")
    ] = None,
    workers: Workers = None,
    shards: Annotated[
        str | None,
        typer.Option("--shards", metavar="I/N", help="Only part I of N: one call each, for job arrays without Dask."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            help="Seconds without a sign after which another worker gets a shard. "
            "[default: 10 times the slowest so far, at least 900]",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Stylize a raster of any size. An interrupted run goes on when the same command is given again.

    Ctrl-C once finishes the shards that have begun and stops, twice stops now.
    """
    from urst_tiles.progress import ProgressBar
    from urst_tiles.reports import run_report_text
    from urst_tiles.stylizing import stylize

    chosen = chosen_network(network, weights, style, alpha, preserve_color=preserve_color, style_size=style_size)
    with ProgressBar(quiet=quiet) as bar, stop_on_signals() as stop, _client(scheduler) as client:
        report = stylize(
            source,
            target,
            network=chosen,
            client=client,
            workers=workers,
            shards=shards,
            timeout=timeout,
            stop=stop,
            overwrite=overwrite,
            keep_store=keep_store,
            scratch=scratch,
            callbacks=(bar,),
            window=window,
            halo=halo,
            region=region,
            mask=mask,
            axes=axes,
            level=level,
            channels=channels,
            range=value_range,
            nodata=nodata,
            thumbnail=thumbnail,
            batch=batch,
            memory=memory,
            device_memory=device_memory,
            device=device,
            engine=engine,
            precision=precision,
            output_profile=output_profile,
        )
    _print(report.to_json() if as_json else run_report_text(report), quiet=quiet and not as_json)


@app.command("plan")
def plan_command(
    source: Input,
    target: PlanOutput = None,
    network: Network = None,
    weights: Weights = None,
    style: Style = None,
    alpha: Alpha = 1.0,
    preserve_color: PreserveColor = False,
    style_size: StyleSize = 1024,
    window: WindowSide = _DEFAULTS.window,
    halo: Halo = _DEFAULTS.halo,
    region: Region = None,
    mask: Mask = None,
    axes: Axes = None,
    level: Level = None,
    channels: Channels = None,
    value_range: Range = None,
    nodata: NoData = None,
    thumbnail: Thumbnail = _DEFAULTS.thumbnail,
    batch: Batch = _DEFAULTS.batch,
    memory: Memory = None,
    workers: Workers = None,
    device_memory: DeviceMemory = None,
    device: Device = _DEFAULTS.device,
    engine: Engine = _DEFAULTS.engine,
    precision: Precision = _DEFAULTS.precision,
    output_profile: OutputProfile = _DEFAULTS.output_profile,
    trial: Annotated[bool, typer.Option("--trial/--no-trial", help="Try the network to tell the time.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print windows, shards, memory, disk and time of a run; touches no pixel."""
    from urst_tiles.planning import plan
    from urst_tiles.reports import plan_text

    planned = plan(
        source,
        chosen_network(network, weights, style, alpha, preserve_color=preserve_color, style_size=style_size),
        target=target,
        workers=workers,
        time_it=trial,
        window=window,
        halo=halo,
        region=region,
        mask=mask,
        axes=axes,
        level=level,
        channels=channels,
        range=value_range,
        nodata=nodata,
        thumbnail=thumbnail,
        batch=batch,
        memory=memory,
        device_memory=device_memory,
        device=device,
        engine=engine,
        precision=precision,
        output_profile=output_profile,
    )
    _print(planned.to_json() if as_json else plan_text(planned))


@app.command("info")
def info_command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A raster, a store or a result.")],
    axes: Axes = None,
    level: Level = None,
    channels: Channels = None,
    value_range: Range = None,
    nodata: NoData = None,
    as_json: AsJson = False,
) -> None:
    """Describe a source or a result."""
    from urst_tiles.reports import describe, info_text

    facts = describe(path, axes=axes, level=level, channels=channels, range=value_range, nodata=nodata)
    _print(facts if as_json else info_text(facts))


@app.command("styles")
def styles_command(
    previews: Annotated[Path | None, typer.Option("--previews", help="Write a contact sheet, a PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped styles."""
    from urst_tiles.reports import styles_text
    from urst_tiles.styles import list_styles

    cards = list_styles()
    if previews is not None:
        from urst_tiles.styles.sheet import write_sheet

        write_sheet(cards, previews)
    _print({"styles": [dataclasses.asdict(card) for card in cards]} if as_json else styles_text(cards))


@app.command("networks")
def networks_command(as_json: AsJson = False) -> None:
    """List the methods: paper, files wanted, licence, style image or not, stride and halo."""
    from urst_tiles.networks.catalogue import describe_methods
    from urst_tiles.reports import networks_text

    found = describe_methods()
    _print({"networks": [entry.to_json() for entry in found]} if as_json else networks_text(found))


@app.command("convert-weights")
def convert_weights_command(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="One of 'urst-tiles networks'.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES... OUT", help="Published files or folder; result last.")
    ],
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
) -> None:
    """Write published weights as one safetensors file that --weights takes by itself."""
    from urst_tiles.networks import convert_weights

    *given, out = files
    if not given or out.suffix != ".safetensors":
        raise InputError("give the published files or their folder, then the result: a name ending in .safetensors")
    convert_weights(method, given, out, half=half)
    _print(f"{out}  {out.stat().st_size / 1e6:.1f} MB, for --network {method} --weights {out}")


@app.command("export-network")
def export_network_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file: a name ending in .onnx.")],
    network: Network = None,
    weights: Weights = None,
    style: Style = None,
    alpha: Alpha = 1.0,
    preserve_color: PreserveColor = False,
    style_size: StyleSize = 1024,
    statistics: Annotated[
        Path | None,
        typer.Option("--statistics", help="What to freeze it with: urst/statistics.safetensors inside a result; or"),
    ] = None,
    raster: Annotated[str | None, typer.Option("--raster", help="a raster whose thumbnail is measured.")] = None,
    thumbnail: Thumbnail = _DEFAULTS.thumbnail,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")] = False,
) -> None:
    """Write a frozen network as ONNX, for other programs: any multiples of its stride, RGB from 0 to 1."""
    from urst_tiles.exporting_network import export_network

    chosen = chosen_network(network, weights, style, alpha, preserve_color=preserve_color, style_size=style_size)
    export_network(chosen, out, statistics=statistics, raster=raster, thumbnail=thumbnail, overwrite=overwrite)
    size = out.stat().st_size / 1e6
    _print(f"{out}  {size:.1f} MB, stride {chosen.stride}, halo {chosen.halo} px")


app.command("train")(train_command)
app.command("export")(export_command)


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Argument(help="Where to put the raster, the result and the preview.")] = Path(
        "urst-demo"
    ),
    megapixels: Annotated[float, typer.Option("--megapixels", help="Size of the raster that is made.")] = 4.0,
    weights: Annotated[Path | None, typer.Option("--weights", help="A Johnson network's weights file.")] = None,
    style: Annotated[str | None, typer.Option("--style", help="A shipped style.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make a raster, stylize it and write a preview PNG to look at."""
    from urst_tiles.demo import run_demo
    from urst_tiles.progress import ProgressBar

    with ProgressBar(quiet=quiet) as bar:
        chosen, said = demo_network(weights, style)
        text = run_demo(folder, megapixels=megapixels, network=chosen, said=said, callbacks=(bar,))
    _print(text)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: one line on stderr and exit status 2 for what the user can mend, 1 for the rest, 130 for Ctrl-C,
    143 for SIGTERM."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    if not debug:
        # What it finds wrong with a file is said in our one line; by itself it would write another before that.
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        app(words, standalone_mode=False)
    except Interrupted as stopped:
        _fail(str(stopped), stopped.status, debug=debug)
    except UrstTilesError as error:
        _fail(f"error: {_one_line(error)}", 2, debug=debug)
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, 130, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort of a program: whatever it is, the user gets one line
        _fail_unexpected(error, debug=debug)


def _fail_unexpected(error: Exception, *, debug: bool) -> None:
    # What the argument parser raises knows how to show itself and carries its own exit status.
    show = getattr(error, "show", None)
    if callable(show):
        show()
        sys.exit(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        _fail(_INTERRUPTED, 130, debug=debug)
    _fail(f"error: {type(error).__name__}: {_one_line(error)} (--debug shows where)", 1, debug=debug)


def _fail(line: str, status: int, *, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    typer.echo(line, err=True)
    sys.exit(status)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _client(scheduler: str | None) -> Any:
    import contextlib

    if scheduler is None:
        return contextlib.nullcontext()
    from distributed import Client

    try:
        return Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {scheduler}; check the address and that it runs") from error


def _print(what: str | dict[str, Any], *, quiet: bool = False) -> None:
    if quiet:
        return
    typer.echo(json.dumps(what, indent=2, default=str) if isinstance(what, dict) else what)

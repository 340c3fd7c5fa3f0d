"""Plans, reports and descriptions as text for people and as values for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from urst_tiles.memory import MemoryPart, format_bytes
from urst_tiles.runs import run_record
from urst_tiles.sources import open_source
from urst_tiles.styles import DEFAULT_STYLE, StyleCard

if TYPE_CHECKING:  # so that what a raster is can be told without PyTorch
    from urst_tiles.networks.catalogue import MethodFacts
    from urst_tiles.planning import RunPlan
    from urst_tiles.stylizing import RunReport

__all__ = ["describe", "format_seconds", "info_text", "networks_text", "plan_text", "run_report_text", "styles_text"]


def plan_text(plan: RunPlan) -> str:
    """The plan as a page of lines, the memory as a sum that can be checked by hand."""
    tiles, info = plan.tiles, plan.source
    rows, cols = tiles.grid
    facts = [
        (
            "raster",
            f"{info.width} x {info.height} px ({_megapixels(info.pixels)}), "
            f"{_bands(info.colour, alpha=info.alpha)}, {info.dtype}",
        ),
        (
            "result",
            f"{tiles.region.width} x {tiles.region.height} px from {tiles.region.col_off},{tiles.region.row_off}",
        ),
        ("network", f"{plan.network}, run by {plan.engine}"),
        (
            "windows",
            f"{tiles.tile_count} of {tiles.window} px, core {tiles.core}, halo {tiles.halo}, stride {tiles.stride}",
        ),
        ("shards", f"{len(tiles)} ({cols} across, {rows} down) of up to {tiles.shard[0]} x {tiles.shard[1]} px"),
        ("overhead", f"{tiles.overhead:.3f} pixels run per pixel kept"),
        ("thumbnail", f"{plan.thumbnail[0]} x {plan.thumbnail[1]} px"),
    ]
    if plan.seconds is not None:
        facts.append(
            ("time", f"about {format_seconds(plan.seconds)}, from a short trial of the network on this machine")
        )
    lines = [f"{name:<10} {text}" for name, text in facts]
    lines += ["", f"memory     {format_bytes(plan.memory.bytes)} at most, while working on {plan.memory.peak.name}:"]
    lines += _sum(plan.memory.peak.parts)
    others = [phase for phase in plan.memory.phases if phase is not plan.memory.peak]
    lines += [f"  {'less in ' + phase.name:<22} {format_bytes(phase.bytes):>10}" for phase in others]
    if plan.budget is not None:
        lines.append(f"  {'budget':<22} {format_bytes(plan.budget):>10}")
    lines += _device_sum(plan)
    lines += ["", f"disk       {format_bytes(sum(part.bytes for part in plan.disk))} at most:", *_sum(plan.disk)]
    return "\n".join([*lines, *_notes(plan.notes)])


def _device_sum(plan: RunPlan) -> list[str]:
    """The GPU's memory as a sum; nothing where the run is not on one."""
    if plan.memory.device is None or plan.device_room is None:
        return []
    peak = plan.memory.device.peak
    first = f"GPU        {format_bytes(peak.bytes)} at most, while working on {peak.name}:"
    return ["", first, *_sum(peak.parts), f"  {'budget, or free':<22} {format_bytes(plan.device_room):>10}"]


def run_report_text(report: RunReport) -> str:
    """What a run did, in a few lines."""
    part = f"part {report.part} of {report.target} is done; " if report.part else ""
    lines = [
        f"wrote      {report.target} ({report.width} x {report.height} px)"
        if report.finished
        else f"part       {part}the last part to end finishes it",
        f"shards     {report.shards} computed"
        + (f", {report.shards_before} taken over from an interrupted run" if report.shards_before else "")
        + (f"; {report.shards_empty} of them empty" if report.shards_empty else ""),
        f"time       {format_seconds(report.seconds)}, shards at {report.megapixels_per_second:.2f} MP/s",
        f"memory     {format_bytes(report.peak_memory)} at its peak; estimated {format_bytes(report.memory_estimate)}",
        f"engine     {report.engine}; window {report.window}, halo {report.halo}",
    ]
    if report.device_peak is not None and report.device_estimate is not None:
        peak, estimate = format_bytes(report.device_peak), format_bytes(report.device_estimate)
        lines.insert(4, f"GPU        {peak} at its peak, beside CUDA's own; estimated {estimate} with it")
    return "\n".join([*lines, *_notes(report.notes)])


def describe(path: str, **choice: Any) -> dict[str, Any]:
    """Facts of a raster, a store or a result, JSON-able. ``choice``: as for :func:`~urst_tiles.open_source`.

    Raises:
        SourceError: it cannot be opened.
    """
    source = open_source(path, **choice)
    info = source.info
    facts: dict[str, Any] = {
        "path": path,
        **{name: value for name, value in dataclasses.asdict(info).items() if name != "icc_profile"},
        "megapixels": round(info.pixels / 1e6, 3),
        "icc_profile": None if info.icc_profile is None else f"{len(info.icc_profile)} bytes",
    }
    record = run_record(path)
    if record is not None:
        facts["run"] = record.to_json()
    return facts


def info_text(facts: dict[str, Any]) -> str:
    """:func:`describe` as lines."""
    resolution = facts["resolution"]
    dpi = "none stated" if resolution is None else f"{resolution[0] * 25.4:.0f} x {resolution[1] * 25.4:.0f} dpi"
    lines = [
        f"path         {facts['path']} ({facts['format']})",
        f"size         {facts['width']} x {facts['height']} px ({facts['megapixels']} megapixels)",
        f"pixels       {_bands(facts['colour'], alpha=facts['alpha'])}, {facts['dtype']}",
        f"profile      {facts['icc_profile'] or 'none'}",
        f"resolution   {dpi}",
        f"orientation  {facts['orientation']}" + (" (applied)" if facts["orientation"] != 1 else ""),
        "reading      "
        + ("any window" if facts["random_access"] else "only from the top: in bands, or a copy in tiles"),
        "levels       " + (", ".join(f"{w} x {h}" for w, h in facts["levels"]) or "none"),
    ]
    if "run" in facts:
        settings = facts["run"]["settings"]
        geometry = settings["geometry"]
        lines.append(
            f"run          {settings['network']['name']}, window {geometry['window']}, halo {geometry['halo']}, "
            f"urst-tiles {facts['run']['versions'].get('urst-tiles', 'unknown')}"
        )
    return "\n".join([*lines, *_notes(facts["notes"])])


def styles_text(cards: Sequence[StyleCard]) -> str:
    """A line a style; the default one is marked."""
    lines = [
        f"{'*' if card.name == DEFAULT_STYLE else ' '} {card.name:<18} {card.title}, {card.painter}, {card.year} "
        f"({card.method}, width {card.width}; weights {card.weights_licence})"
        for card in cards
    ]
    return "\n".join([*lines, "* what urst-tiles demo takes"] if lines else ["no style is shipped"])


def format_seconds(seconds: float) -> str:
    """ "48 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _sum(parts: Iterable[MemoryPart]) -> list[str]:
    return [f"  {part.name:<22} {format_bytes(part.bytes):>10}  {part.reason}" for part in parts if part.bytes]


def _notes(notes: Iterable[str]) -> list[str]:
    return [f"note       {note}" for note in notes]


def _bands(colour: str, *, alpha: bool) -> str:
    return {"grey": "grey", "rgb": "RGB"}[colour] + (" and alpha" if alpha else "")


def networks_text(methods: Sequence[MethodFacts]) -> str:
    """The methods, a paragraph each."""
    return "\n\n".join(_method_text(method) for method in methods)


def _method_text(method: MethodFacts) -> str:
    style = "a style image (--style FILE)" + (", --alpha" if method.alpha else "") if method.style_image else ""
    facts = [
        ("paper", method.paper),
        ("takes", style),
        ("weights", method.files),
        ("from", method.published),
        ("licence", method.licence),
        ("tiles", f"stride {method.stride}, halo {method.halo} px, {method.norms} norm layers"),
    ]
    lines = [f"{method.name:<14} {method.summary}"]
    return "\n".join([*lines, *(f"  {name:<12} {text}" for name, text in facts if text)])


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:,.1f} megapixels"

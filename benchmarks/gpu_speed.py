"""Tables of benchmarks/gpu.py: an engine's speed beside the paper's way, and the frozen network by itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

from benchmarks.measuring import Spread, Worker, alternate
from benchmarks.throughput import REFERENCE, available, row
from urst_tiles.options import DEFAULT_WINDOW

__all__ = ["CHILD", "EXACT", "frozen_lines", "measured_frozen", "measured_speed", "rows_of", "speed_lines", "working"]

CHILD = "benchmarks.gpu_child"
EXACT = "reference float32"
"""The paper's way without TF32, which PyTorch takes for float32 by itself."""


def measured_speed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of each method, {"method", "error"} where its reference does not run."""
    for method in arguments.methods:
        try:
            found = _speed_of(method, arguments)
        except RuntimeError as error:
            found = {"method": method, "error": str(error)}
        print("\n".join(speed_lines(found)), flush=True)
        yield found


def _speed_of(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one method's engines."""
    settings = _settings(method, arguments)
    with Worker(CHILD, settings) as theirs, Worker(CHILD, settings) as ours:
        facts = _ask(ours, what="facts", windows=[arguments.window or DEFAULT_WINDOW])
        window = int(next(iter(facts["windows"])))
        engines = available(ours, method, arguments)
        asked = {
            f"{engine} {precision} x {batch}": {"engine": engine, "precision": precision, "batch": batch}
            for (engine, precision), batch in product(engines, arguments.batch)
        }
        references: dict[str, Callable[[], Any]] = {
            REFERENCE: partial(_ask, theirs, what="reference", tf32=True),
            EXACT: partial(_ask, theirs, what="reference", tf32=False),
        }
        sizes = {"window": window, "windows": arguments.windows}
        found = working({name: partial(_ask, ours, what="batch", **sizes, **what) for name, what in asked.items()})
        answers = alternate({**references, **found}, arguments.repetitions)
        largest = {"window": window, "batch": max(arguments.batch)}
        return {
            "method": method,
            **facts,
            "engines": {" ".join(pair): description for pair, description in engines.items()},
            "rows": rows_of(answers, asked, facts, window, (arguments.patch * arguments.grid) ** 2),
            "levels_off": {
                " ".join(pair): ours.ask(what="errors", engine=pair[0], precision=pair[1]) for pair in engines
            },
            "float32_against_cpu": ours.ask(what="cpu"),
            "batch_against_one_by_one": {
                " ".join(pair): ours.ask(what="alike", engine=pair[0], precision=pair[1], **largest) for pair in engines
            },
        }


def measured_frozen(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The frozen network of each method, in each precision and batch."""
    for method in arguments.methods:
        settings = _settings(method, arguments)
        with ExitStack() as stack:
            worker = stack.enter_context(Worker(CHILD, settings))
            for precision, batch in product(arguments.precisions, arguments.batch):
                asked = {
                    "precision": precision,
                    "window": arguments.window or DEFAULT_WINDOW,
                    "batch": batch,
                    "calls": arguments.calls,
                }
                try:
                    found = worker.ask(what="frozen", repetitions=arguments.repetitions, **asked)
                except RuntimeError as error:
                    found = {"error": str(error)}
                if "error" in found:  # what a GPU says no to may have broken more than one call
                    stack.close()
                    worker = stack.enter_context(Worker(CHILD, settings))
                found = {"method": method, **asked, **found}
                print("\n".join(frozen_lines(found)), flush=True)
                yield found


def working(ways: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Those that run here; says why not, of others."""
    found = {}
    for name, way in ways.items():
        try:
            way()
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
        else:
            found[name] = way
    return found


def rows_of(
    answers: Mapping[str, list[dict[str, Any]]],
    asked: Mapping[str, dict[str, Any]],
    facts: dict[str, Any],
    window: int,
    reference_kept: int,
) -> list[dict[str, Any]]:
    """Speeds of the references and of what was asked of ours, whose seconds are a window's."""
    seconds = {name: [float(answer["seconds"]) for answer in found] for name, found in answers.items()}
    size = facts["windows"][str(window)]
    rows = []
    for name, own in seconds.items():
        theirs = name in (REFERENCE, EXACT)
        kept, flop = (reference_kept, facts["reference_flop"]) if theirs else (size["kept"], size["flop"])
        found = row(own, seconds[REFERENCE], kept, reference_kept, flop, way=name, **asked.get(name, {}))
        exact = row(own, seconds[EXACT], kept, reference_kept, flop)["times_the_reference"]
        limits = [answer["limit"] for answer in answers[name] if answer.get("limit")]
        rows.append({**found, "times_the_float32_reference": exact, "limit": min(limits, default=None)})
    return rows


def speed_lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    if "error" in found:
        return [f"{found['method']}: {found['error']}"]
    lines = [f"{found['method']}: {found['weights']}; halo {found['halo']}, window {next(iter(found['windows']))}"]
    for each in found["rows"]:
        speed, ratio, exact = (
            Spread(**each[key])
            for key in ("megapixels_per_second", "times_the_reference", "times_the_float32_reference")
        )
        fewer = f"   memory ran out, {each['limit']} at a time" if each["limit"] else ""
        lines.append(
            f"  {each['way']:<26} {speed!s:>24} MP/s {ratio!s:>22} x the reference {exact!s:>22} x it in float32{fewer}"
        )
    errors = {
        **found["levels_off"],
        "float32 against the CPU's": found["float32_against_cpu"],
        **{f"{name}, batch against one by one": each for name, each in found["batch_against_one_by_one"].items()},
    }
    return [*lines, *(f"  {name}: {_errors(each)}" for name, each in errors.items())]


def frozen_lines(found: dict[str, Any]) -> list[str]:
    """For people: a line for each way."""
    head = f"{found['method']}, {found['precision']} x {found['batch']}"
    if "error" in found:
        return [f"{head}: {found['error']}"]
    return [f"{head}, {each['way']}: {each['error']}" for each in found["ways"] if "error" in each] + [
        f"{head}, {each['way']}: {Spread(**each['milliseconds'])} ms a call, {Spread(**each['times_eager'])} x eager, "
        f"waited for {Spread(**each['times_eager_waited'])} x; {each['levels_off']:.2g} levels off"
        for each in found["ways"]
        if "error" not in each
    ]


def _errors(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    mean, most, largest = (found[key] for key in ("mean", "quantile_0.999", "largest"))
    return f"{mean:.2g} levels off in the mean, 99.9 % within {most:.3g}, {largest:.3g} at most"


def _settings(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    return {"method": method} | {key: getattr(arguments, key) for key in ("weights_dir", "patch", "grid", "thumbnail")}


def _ask(worker: Worker, **question: Any) -> dict[str, Any]:
    answer = worker.ask(**question)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer

"""What a frozen network makes of the machine: its GFLOP/s beside those of a large float32 matrix product and of a large
3x3 convolution.

    python -m benchmarks.roofline [--methods style johnson …] [--engines torch …] [--weights-dir FOLDER]
        [--repetitions 5]

All of them run in turn in one process. The best of the sizes tried is what the machine can do; the network's share of
it is taken within each turn. Multiplications and additions count as one each, as they are really done: an engine that
finds a way around some (Winograd's, say) may come out above 1. Results go to benchmarks/results/roofline.json.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.common import save
from benchmarks.engines import ENGINES, USUAL
from benchmarks.measuring import Spread, Worker, alternate, serve
from benchmarks.subjects import SUBJECTS

MODULE = "benchmarks.roofline"
MATRICES = (1024, 2048, 4096)
"""Sides of square matrices."""
CONVOLUTIONS = ((64, 532), (128, 266), (256, 266))
"""(channels, side in pixels), channels last: those of a window of 1064 px inside Johnson's network and VGG."""


class Child:
    """Answers one process's questions about one method."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from benchmarks.subjects import subject
        from urst_tiles.geometry import default_window

        folder = settings["weights_dir"]
        self._subject = subject(settings["method"], folder and Path(folder))
        network = self._subject.network
        self._frozen = partial(network.freeze, network.neutral_statistics)
        self._window = settings["window"] or default_window(network.halo, network.stride)
        self._least = max(network.minimum, network.stride)
        self._smaller = settings["smaller"]
        self._engine = cache(self._new_engine)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Floating point operations, and the seconds they took."""
        import torch

        from benchmarks.engines import tried

        what = question["what"]
        if what == "facts":
            return {"weights": self._subject.weights, "window": self._window, "threads": torch.get_num_threads()}
        if what == "engine":
            return {**tried(lambda: self._engine(question["engine"]), self._least)}
        with torch.inference_mode():
            if what == "matrix":
                return _matrix(question["side"] // self._smaller)
            if what == "convolution":
                return _convolution(question["channels"], question["side"] // self._smaller)
        return self._network(question["engine"])

    def _network(self, engine: str) -> dict[str, Any]:
        from urst_tiles.demo import landscape
        from urst_tiles.engines import run_whole
        from urst_tiles.networks import multiply_adds

        side, made = self._window, self._engine(engine)
        picture = landscape(0, 0, side, side, side, side)[None]
        started = time.perf_counter()
        run_whole(made, picture)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "flop": 2 * multiply_adds(self._frozen(), side, side)}

    def _new_engine(self, engine: str) -> Any:
        from benchmarks.engines import engine_of

        return engine_of(engine, self._frozen())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _timed(run: Any) -> float:
    import torch

    started = time.perf_counter()
    run()
    if _device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _matrix(side: int) -> dict[str, Any]:
    import torch

    one = torch.randn(side, side, device=_device())
    other, out = torch.randn_like(one), torch.empty_like(one)
    return {"seconds": _timed(lambda: torch.mm(one, other, out=out)), "flop": 2 * side**3}


def _convolution(channels: int, side: int) -> dict[str, Any]:
    import torch

    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    layer = layer.to(_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture = torch.randn(1, channels, side, side, device=_device()).contiguous(memory_format=torch.channels_last)
    return {"seconds": _timed(lambda: layer(picture)), "flop": 2 * 9 * channels**2 * side**2}


def measured(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "method": method,
        "weights_dir": arguments.weights_dir,
        "window": arguments.window,
        "smaller": arguments.smaller,
    }
    with Worker(MODULE, settings) as worker:
        matrices = {f"matrix {side}": {"what": "matrix", "side": side} for side in MATRICES}
        convolutions = {
            f"convolution of {channels} channels, {side} px": {
                "what": "convolution",
                "channels": channels,
                "side": side,
            }
            for channels, side in CONVOLUTIONS
        }
        networks = {
            f"network, {engine}": {"what": "network", "engine": engine} for engine in available(worker, arguments)
        }
        questions = matrices | convolutions | networks
        facts = worker.ask(what="facts")
        speeds = alternate(
            {name: partial(_speed, worker, question) for name, question in questions.items()}, arguments.repetitions
        )
    best = {
        "matrix product": _best(speeds[name] for name in matrices),
        "convolution": _best(speeds[name] for name in convolutions),
    }
    shares = {
        f"{name}, of the {what}": Spread.of(a / b for a, b in zip(speeds[name], theirs, strict=True)).to_json()
        for name in networks
        for what, theirs in best.items()
    }
    return {
        "method": method,
        **facts,
        "gflop_per_second": {name: Spread.of(found).to_json() for name, found in (speeds | best).items()},
        "share": shares,
    }


def available(worker: Worker, arguments: argparse.Namespace) -> list[str]:
    """Engines that can be made here; says why not, of others."""
    answers = {engine: worker.ask(what="engine", engine=engine) for engine in arguments.engines}
    for engine, answer in answers.items():
        if "missing" in answer:
            print(f"no {engine}: {answer['missing']}", flush=True)
    return [engine for engine, answer in answers.items() if "missing" not in answer]


def _best(speeds: Any) -> list[float]:
    """Of each turn, the largest."""
    return [max(turn) for turn in zip(*speeds, strict=True)]


def _speed(worker: Worker, question: dict[str, Any]) -> float:
    answer = worker.ask(**question)
    return float(answer["flop"] / answer["seconds"] / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=SUBJECTS, default=["style", "johnson", "adain"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(USUAL))
    parser.add_argument("--weights-dir", help="of published weights, a folder a method")
    parser.add_argument("--window", type=int, help="in pixels [default: that of a run]")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--smaller", type=int, default=1, help="divide the sides of matrices and convolutions by this")
    parser.add_argument("--name", default="roofline", help="of the result file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(Child(arguments.child).answer)
        return
    found = []
    for method in arguments.methods:
        try:
            found.append(measured(method, arguments))
        except RuntimeError as error:
            print(f"{method}: {error}", flush=True)
            continue
        print(f"{method}, window {found[-1]['window']}, {found[-1]['threads']} threads")
        for key, unit in (("gflop_per_second", "GFLOP/s"), ("share", "x")):
            for name, spread in found[-1][key].items():
                print(f"  {name:<44} {Spread(**spread)!s:>24} {unit}", flush=True)
    print(f"wrote {save(arguments.name, {'methods': found})}")


if __name__ == "__main__":
    main()

"""The benchmarks: what there is, and all of them in one go.

    python -m benchmarks                                     list them
    python -m benchmarks all [--quick] [--results FOLDER]    run each in turn
    python -m benchmarks NAME … [--quick]                    run these

--quick takes sizes that say no more than that everything works, and writes to a temporary folder unless --results names
one. Those that need pictures or weights of yours, or a GPU, are listed and not run: see their own --help.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common import RESULTS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One script."""

    name: str
    minutes: int
    # about, on two cores; 0: it is not run from here
    module: str = ""
    # where it is not called like the benchmark
    full: str = ""
    # arguments
    quick: str = ""

    @property
    def script(self) -> str:
        return self.module or self.name

    @property
    def shows(self) -> str:
        """The first sentence of what its file says of itself."""
        spec = find_spec(f"benchmarks.{self.name}")
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8").split('"""')[1]
        return " ".join(text.split("\n\n")[0].split())


BENCHMARKS = (
    Benchmark(
        "throughput",
        20,
        full="--repetitions 3",
        quick="--methods style microast --patch 128 --windows 256 --repetitions 1 --thumbnail 128",
    ),
    Benchmark(
        "pipeline",
        40,
        module="throughput",
        full="--pipeline --repetitions 3 --megapixels 255",
        quick="--pipeline --megapixels 0.3 --repetitions 1",
    ),
    Benchmark("elsewhere", 8, quick="--megapixels 0.3 --rates 50 --in-flight 1 2"),
    Benchmark("roofline", 5, quick="--methods style --window 256 --smaller 8 --repetitions 1"),
    Benchmark("memory", 25, quick="--sizes 0.3 --identity 1"),
    Benchmark("memory_matrix", 10, quick="--largest 1 --only johnson8"),
    Benchmark("memory_vs_resolution", 45, quick="--methods style --sides 300 600"),
    Benchmark("time_vs_resolution", 25, quick="--sizes 0.1 0.3 0.6 --repetitions 1"),
    Benchmark("io", 10, quick="--megapixels 2 --style-megapixels 0.3 --repetitions 1"),
    Benchmark("reading_order", 8, quick="--megapixels 2 --window 128 --halo 16 --readers 1"),
    Benchmark("driver", 6, full="--shards 1000 10000 100000", quick="--shards 200"),
    Benchmark("workers", 8, quick="--megapixels 0.3 --repetitions 1"),
    Benchmark("codecs", 3, quick="--side 952 --repetitions 1"),
    Benchmark("tiles", 2, quick="--side 600 --repetitions 1"),
    Benchmark("windows", 3, quick="--windows 256 --repetitions 1"),
    Benchmark("ways", 2, quick="--methods style --window 256 --repetitions 1"),
    Benchmark("vectors", 2, quick="--window 256 --repetitions 1"),
    Benchmark("huge_pages", 3, quick="--repetitions 1"),
    Benchmark("plan_scale", 2, quick="--no-trial"),
    Benchmark("allocator", 2),
    Benchmark("soak", 3, quick="--kills 2"),
    Benchmark("gpu", 0),
    Benchmark("seams", 0),
    Benchmark("strokes", 0),
    Benchmark("style_losses", 0),
    Benchmark("style_sheet", 0),
)


def listing() -> str:
    lines = []
    for each in BENCHMARKS:
        takes = f"about {each.minutes} min" if each.minutes else f"by hand: python -m benchmarks.{each.script} --help"
        lines.append(f"{each.name:<22} {takes}\n    {each.shows}")
    return "\n".join(lines)


def run(each: Benchmark, results: Path, *, quick: bool) -> int:
    """The script's exit status."""
    words = (each.quick if quick else each.full).split()
    print(f"\n{each.name}: python -m benchmarks.{each.script} {' '.join(words)}", flush=True)
    environment = {**os.environ, "URST_TILES_RESULTS": str(results)}
    command = [sys.executable, "-m", f"benchmarks.{each.script}", *words]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {each.name: each for each in BENCHMARKS}
    parser.add_argument("names", nargs="*", metavar="NAME", help="which, or all [default: list them]")
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--results", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in (*known, "all")]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are all, {', '.join(known)}")
    if not arguments.names:
        print(listing())
        return
    chosen = list(BENCHMARKS) if "all" in arguments.names else [known[name] for name in arguments.names]
    default = Path(tempfile.mkdtemp(prefix="urst-benchmarks-")) if arguments.quick else RESULTS
    results: Path = (arguments.results or default).resolve()
    failed = []
    for each in chosen:
        if not each.minutes:
            needs = "pictures, weights or a GPU"
            print(f"\n{each.name}: left out, it needs {needs}: python -m benchmarks.{each.script} --help")
            continue
        started = time.perf_counter()
        if run(each, results, quick=arguments.quick):
            failed.append(each.name)
        print(f"{each.name}: {(time.perf_counter() - started) / 60:.1f} min", flush=True)
    print(f"\nresults are in {results}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""What every benchmark writes beside its numbers: the machine, the versions, the commit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = ("urst-tiles", "torch", "openvino", "llvmlite", "pyvips", "zarr", "tifffile", "dask", "numpy")

RESULTS = Path(os.environ.get("URST_TILES_RESULTS") or Path(__file__).parent / "results")
"""Where results go; ``python -m benchmarks`` sets the variable for what it starts."""


def machine() -> dict[str, Any]:
    """Facts that a number means nothing without."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **_gpu(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES if find_spec(name.replace("-", "_"))},
        "commit": os.environ.get("URST_TILES_COMMIT") or _commit(),
    }


def save(name: str, document: dict[str, Any], folder: Path = RESULTS) -> Path:
    """``<folder>/<name>.json``, with the machine in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **document}, indent=2) + "\n")
    return path


def in_subprocess(module: str, *arguments: object, timeout: float = 7200) -> dict[str, Any]:
    """Run ``python -m module --child arguments…`` and read the JSON it prints last; {"error": …} where it died."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--child", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _commit() -> str:
    """What is run here. A copy without its history is told by the variable URST_TILES_COMMIT."""
    if shutil.which("git") is None:
        return "unknown"
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain") else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def _gpu() -> dict[str, Any]:
    """Of the CUDA device that PyTorch takes; nothing where there is none."""
    if not find_spec("torch"):
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
            "devices": torch.cuda.device_count(),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    }


def _driver() -> str | None:
    """The driver's version; None where nvidia-smi is not there to say."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), None) if done.returncode == 0 else None


def _cpu() -> str:
    """Its name, with family and model where a name is that of many: "AMD EPYC (family 25, model 17)"."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    pairs = (line.partition(":") for line in reversed(info.read_text().splitlines()))
    facts = {key.strip(): value.strip() for key, _, value in pairs}  # of the first processor
    if "model name" not in facts:
        return platform.processor()
    which = ", ".join(f"{kind.split()[-1]} {facts[kind]}" for kind in ("cpu family", "model") if kind in facts)
    return facts["model name"] + (f" ({which})" if which else "")

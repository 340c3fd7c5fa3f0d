"""Make a virtual environment and install this project into it, with the PyTorch that fits the machine.

    python3 pipelines/install.py [--venv .venv] [--extra test]

On Linux, PyPI's PyTorch brings gigabytes of CUDA libraries. Without an NVIDIA GPU the CPU build is installed instead:
pip's own sources are asked for it first; where they have none, uv fetches it from PyTorch's index (``--torch-backend
cpu``). Where there is no GPU, llvmlite is installed too, if there is a build of it for this Python: it makes runs on a
CPU faster.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

TORCH = "2.13.0"
PROJECT = Path(__file__).resolve().parents[1]


def has_gpu() -> bool:
    """Whether NVIDIA's driver is there and sees a device."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def make_environment(folder: Path) -> Path:
    """The environment's Python."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    return python


def install_torch(python: Path) -> None:
    """PyTorch with CUDA where there is a GPU, else its CPU build."""
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if has_gpu() or sys.platform != "linux":
        subprocess.run([*pip, f"torch=={TORCH}"], check=True)
        return
    local = subprocess.run([*pip, f"torch=={TORCH}+cpu"], check=False, capture_output=True)
    if local.returncode != 0:
        subprocess.run([*pip, "uv"], check=True)
        uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python)]
        subprocess.run([*uv, "--torch-backend", "cpu", f"torch=={TORCH}"], check=True)


def install_llvm(python: Path) -> None:
    """llvmlite where there is no GPU, unless it would have to be built."""
    if not has_gpu():
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        subprocess.run([*pip, *project["optional-dependencies"]["llvm"]], check=False, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="where the environment goes [default: .venv]")
    parser.add_argument("--extra", action="append", default=[], help="an optional extra: test, bench, notebooks")
    parser.add_argument("--editable", action="store_true", help="install the project in place, to work on it")
    arguments = parser.parse_args()
    python = make_environment(arguments.venv.absolute())
    install_torch(python)
    install_llvm(python)
    extras = f"[{','.join(arguments.extra)}]" if arguments.extra else ""
    how = ["--editable"] if arguments.editable else []
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *how, f"{PROJECT}{extras}"], check=True)
    print(f"installed into {arguments.venv}")


if __name__ == "__main__":
    main()

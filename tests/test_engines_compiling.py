"""What torch.compile needs on a GPU. None is needed here: what is asked of it is answered here."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

from urst_tiles.engines.choosing import suitable
from urst_tiles.engines.compiling import check_compiler
from urst_tiles.errors import InputError

CUDA = torch.device("cuda")


def compilers(monkeypatch: pytest.MonkeyPatch, *there: str, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_what_compiles_for_a_gpu(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers(monkeypatch, "triton", compiler, capability=(7, 0))
    check_compiler(CUDA)
    monkeypatch.setenv("CC", compiler)
    check_compiler(CUDA)


def test_what_does_not_compile_for_a_gpu_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urst_tiles.engines.choosing.choose_device", lambda _name: CUDA)
    compilers(monkeypatch, "gcc")
    with pytest.raises(InputError, match="needs Triton"):
        suitable("compile", device="cuda")
    compilers(monkeypatch, "triton", "g++")
    with pytest.raises(InputError, match=r"needs a C compiler, and there is no gcc or clang here; .* --engine torch"):
        suitable("compile", device="cuda")
    compilers(monkeypatch, "triton", "gcc")
    monkeypatch.setenv("CC", "icx")
    with pytest.raises(InputError, match="there is no icx here"):
        suitable("compile", device="cuda")
    compilers(monkeypatch, "triton", "gcc", capability=(6, 1))
    with pytest.raises(InputError, match=r"compute capability 7\.0 or more, and cuda has 6\.1; use --engine torch"):
        suitable("compile", device="cuda")

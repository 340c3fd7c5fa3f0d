"""Programs, translated for the processor that this process runs on."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from urst_tiles.errors import InputError, reason_of

__all__ = ["Processor", "Program", "UntranslatedError", "is_installed", "known_processor", "processor", "translated"]


class UntranslatedError(RuntimeError):
    """LLVM cannot translate a program, or the system forbids programs made at run time."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What vectors a processor has.

    Attributes:
        name: for a report: "AVX-512".
        lanes: floats in a vector.
        sums: vectors that fit into its registers beside what is multiplied.
    """

    name: str
    lanes: int
    sums: int

    def vectors(self, outputs: int) -> int:
        """Of outputs, computed at a time: the more, the fewer times what is multiplied is read."""
        needed = -(-outputs // self.lanes)
        return next(count for count in ((4, 3, 2, 1) if self.sums > 12 else (3, 2, 1)) if needed % count == 0)


class Program:
    """A translated function. Calling it lets other threads of Python run."""

    def __init__(self, engine: Any, function: Any) -> None:
        self._engine = engine  # it owns the memory that the function lies in
        self._function = function

    def __call__(self, *arguments: int) -> None:
        """Addresses and numbers, in the order of the program's arguments; nothing is checked."""
        self._function(*arguments)


def is_installed() -> bool:
    return importlib.util.find_spec("llvmlite") is not None


@cache
def known_processor() -> Processor | None:
    """This one; None: it has no vectors that programs are written for, or llvmlite is not installed."""
    if not is_installed():
        return None
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    if has.get("avx512f"):
        return Processor("AVX-512", 16, 24)
    if has.get("avx2") and has.get("fma"):
        return Processor("AVX2", 8, 12)
    if binding.get_process_triple().startswith(("aarch64", "arm64")):
        return Processor("NEON", 4, 24)
    return None


def processor() -> Processor:
    """
    Raises:
        InputError: llvmlite is not installed, or knows no vectors of this processor.
    """
    found = known_processor()
    if found is not None:
        return found
    if not is_installed():
        raise InputError(
            "llvmlite is not installed here; install it (pip install 'urst-tiles[llvm]') or use --engine torch"
        )
    raise InputError("the LLVM engine needs a processor with AVX2 or NEON; use --engine torch")


@cache
def translated(program: Callable[[Any], str], shape: Hashable, arguments: tuple[Any, ...]) -> Program:
    """``program(shape)``, in LLVM's language, for this processor; a tenth to half of a second, the first time.

    Raises:
        UntranslatedError: there is none.
    """
    from llvmlite import binding

    from urst_tiles.engines.llvm.emitting import NAME

    try:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
        )
        module = binding.parse_assembly(program(shape))
        module.verify()
        # What is written in vectors needs no search for more of them; of rounds of a loop that are put together, what
        # two of them load would be kept, on the stack: the registers are full.
        tuning = binding.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
        passes = binding.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(module, passes)
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
    except (RuntimeError, OSError) as error:
        raise UntranslatedError(reason_of(error)) from error
    kinds = {"ptr": ctypes.c_void_p, "i64": ctypes.c_int64}
    function = ctypes.CFUNCTYPE(None, *[kinds[str(each)] for each in arguments])
    return Program(engine, function(engine.get_function_address(NAME)))

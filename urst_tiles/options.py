"""What can be chosen about a run: one place for names, defaults and ranges, shared by Python and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.memory import format_bytes, parse_bytes

__all__ = ["DEFAULT_WINDOW", "Part", "RunKeywords", "RunOptions"]

DEFAULT_WINDOW = 1064
"""Side of a window, in pixels: the paper's."""


_CHOICES = {
    "engine": ("auto", "torch", "compile", "openvino", "llvm"),
    "precision": ("auto", "float32", "tf32", "bfloat16", "float16"),
    "output_profile": ("source", "srgb"),
}


class RunKeywords(TypedDict, total=False):
    """The fields of :class:`RunOptions`, as keyword arguments of ``plan``, ``stylize`` and ``stylize_array``."""

    window: int | None
    halo: int | None
    region: Window | tuple[int, int, int, int] | str | None
    mask: object
    axes: str | None
    level: int | None
    channels: Sequence[int] | int | str | None
    range: Sequence[float] | str | None
    nodata: float | None
    thumbnail: int
    batch: int | None
    memory: int | str | None
    device_memory: int | str | None
    device: str
    engine: Literal["auto", "torch", "compile", "openvino", "llvm"]
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    output_profile: Literal["source", "srgb"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Raises InputError when a value is out of range."""

    window: int | None = None
    # side of a window, in pixels; None: 1064, grown or shrunk as the network's halo and the memory budget ask, or that
    # of an unfinished run that is gone on with
    halo: int | None = None
    # in pixels; None: derived from the network's graph. Less than that leaves seams
    region: Window | tuple[int, int, int, int] | str | None = None
    # the part to produce, (col_off, row_off, width, height) or "COL,ROW,WIDTH,HEIGHT"; None: all of it
    mask: object = field(default=None, compare=False)
    # a grey raster of the same size (a path, URL, array or Source) that becomes the result's alpha: where it is 0 in a
    # whole core, nothing is made. Statistics stay the whole raster's. None: nothing is masked
    axes: str | None = None
    # of an array, one letter an axis, such as "cyx"; None: from metadata or an unambiguous shape
    level: int | None = None
    # of the raster's pyramid or slide; 0 or None: the full size
    channels: Sequence[int] | int | str | None = None
    # from 0, one or three and maybe alpha, (2, 1, 0) or "2,1,0"; None: all there are
    range: Sequence[float] | str | None = None
    # (lo, hi) or "LO,HI": the numbers that are black and white; None: as the file states, or all of 8 or 16 bit
    nodata: float | None = None
    # pixels with this value in all colour bands are transparent; None: as the file states
    thumbnail: int = 1024
    # short side of the thumbnail that the statistics come from, in pixels
    batch: int | None = None
    # windows a call of the network; None: 1 on a CPU, 8 on a GPU
    memory: int | str | None = None
    # budget for the process, in bytes or like "2GiB"; None: no limit, the estimate is only reported
    device_memory: int | str | None = None
    # the same for each process's share of a GPU; None: what is free there decides how many windows a call takes
    device: str = "auto"
    # "auto", "cpu", "cuda" or "cuda:N"
    engine: Literal["auto", "torch", "compile", "openvino", "llvm"] = "auto"
    # what runs the network; "auto": on a CPU LLVM or OpenVINO, where one is installed, agrees and pays, else PyTorch;
    # or what an unfinished run has
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    # of the network's arithmetic; "auto" is float32: a lossy one is used only where it is asked for
    output_profile: Literal["source", "srgb"] = "source"
    # ICC profile of the result: the raster's own, or sRGB, which is what the network sees in any case

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("halo", 0), ("thumbnail", 16), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                said = f"{name.replace('_', ' ')} {getattr(self, name)!r}"
                raise InputError(f"{said} is unknown; use {', '.join(known[:-1])} or {known[-1]}")
        if self.precision == "auto":
            object.__setattr__(self, "precision", "float32")
        if self.engine in ("openvino", "llvm") and self.device == "auto":
            object.__setattr__(self, "device", "cpu")
        object.__setattr__(self, "region", parse_region(self.region))
        for name in ("memory", "device_memory"):
            budget = getattr(self, name)
            if isinstance(budget, str):
                object.__setattr__(self, name, budget := parse_bytes(budget))
            if budget is not None and budget < 1:
                raise InputError(f"a memory budget of {format_bytes(budget)} is no budget")

    @property
    def part(self) -> Window | None:
        """The region as a window."""
        return self.region if isinstance(self.region, Window) else None

    @property
    def budget(self) -> int | None:
        """The memory budget in bytes."""
        return self.memory if isinstance(self.memory, int) else None

    @property
    def device_budget(self) -> int | None:
        """The budget of a GPU's memory in bytes."""
        return self.device_memory if isinstance(self.device_memory, int) else None


@dataclass(frozen=True, slots=True)
class Part:
    """Part ``index`` (from 1) of a run that is split into ``count``. Raises InputError for anything else."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                f"there is no part {self.index} of {self.count}; parts are numbered from 1, like 1/4 to 4/4"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @staticmethod
    def of(part: Part | tuple[int, int] | str | None) -> Part | None:
        """A part from any of the ways to write one.

        Raises:
            InputError: it is not two whole numbers, or there is no such part.
        """
        if part is None or isinstance(part, Part):
            return part
        try:
            index, count = (int(number) for number in (part.split("/") if isinstance(part, str) else part))
        except (TypeError, ValueError) as error:
            raise InputError(f"shards {part!r} is not PART/PARTS: two whole numbers, like 2/8") from error
        return Part(index, count)

    def of_shards(self, shards: int) -> range:
        """The indices that are this part's: neighbours, so that its reading stays local."""
        return range(shards * (self.index - 1) // self.count, shards * self.index // self.count)


def parse_region(region: Window | tuple[int, int, int, int] | str | None) -> Window | None:
    """A window from any of the ways to write one.

    Raises:
        InputError: it is not four whole numbers, or a side is below 1.
    """
    if region is None or isinstance(region, Window):
        return region
    try:
        col, row, width, height = (int(part) for part in (region.split(",") if isinstance(region, str) else region))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"region {region!r} is not COL,ROW,WIDTH,HEIGHT: four whole numbers in pixels, like 2000,1500,800,600"
        ) from error
    return Window(col, row, width, height)

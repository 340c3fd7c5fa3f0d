"""How published files name the parts of the three subnets, and how those names become this package's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.renaming import cleaned, part_of, refusal, renamed
from urst_tiles.networks.weight_files import WeightFiles

__all__ = ["SUBNETS", "read_subnets"]

SUBNETS = ("style", "enhance", "refine")

Names = dict[str, str]
"""The file's name of each layer → this package's."""


def read_subnets(files: WeightFiles) -> dict[str, Tensor]:
    """Tensors of all three by this package's names, from a file each or one file with all of them.

    Raises:
        NetworkError: a file is missing, holds code, or its tensors are missing or left over.
    """
    if len(files.paths) == 1:
        return _of_one(files.single())
    paths = files.find({f"{subnet} subnet": _pattern(files, subnet) for subnet in SUBNETS})
    weights: dict[str, Tensor] = {}
    for subnet in SUBNETS:
        path = paths[f"{subnet} subnet"]
        weights |= _translate(_load(path), subnet, str(path))
    return weights


def _pattern(files: WeightFiles, subnet: str) -> str:
    """Of a subnet's file name. A published .pt counts only where no converted file stands beside it."""
    converted = rf".*{subnet}.*\.(pth|safetensors)"
    return converted if files.matching(converted) else rf".*{subnet}.*\.(pt|pth|safetensors)"


def _of_one(path: Path) -> dict[str, Tensor]:
    """A file of all subnets, as the state dict of the URST code's ``MT`` or as this package writes it."""
    state = cleaned(_load(path))
    if any(name.startswith("style.rgb.") for name in state):
        return state
    if not any(name.startswith("style_subnet.") for name in state):
        if any(name.startswith("rezconv1.") for name in state):
            raise NetworkError(f"{path} is one of the three subnets; give all three files, or the folder they stand in")
        raise refusal(state, "multimodal transfer", str(path))
    parts = {subnet: part_of(state, f"{subnet}_subnet.") for subnet in SUBNETS}
    surplus = [name for name in state if not name.startswith(tuple(f"{subnet}_subnet." for subnet in SUBNETS))]
    if surplus:
        raise NetworkError(f"{path} holds {surplus[0]}, which is of none of the three subnets")
    return {name: value for s in SUBNETS for name, value in _translate(parts[s], s, f"{path} ({s}_subnet)").items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_state_dict(path)
    except NetworkError as error:
        if "holds code" not in str(error):
            raise
        out = path.with_suffix(".pth" if path.suffix != ".pth" else ".state.pth").name
        # The published files are whole modules. PyTorch before 1.13 does not know weights_only.
        raise NetworkError(
            f"{path} holds a pickled module, that is code; it was not executed. If you trust it, convert it where the "
            "code that wrote it (style_subnet.py, enhance_subnet.py, refine_subnet.py) can be imported: python -c "
            f"\"import torch; torch.save(torch.load('{path.name}', map_location='cpu', weights_only=False)"
            f".state_dict(), '{out}')\" (leave weights_only out where PyTorch is older than 1.13)"
        ) from error


def _translate(state: Mapping[str, Tensor], subnet: str, source: str) -> dict[str, Tensor]:
    found = {
        # The norms that the style subnet's authors wrote themselves have scales and shifts.
        name.replace(".scale", ".weight").replace(".shift", ".bias"): tensor
        for name, tensor in cleaned(state).items()
    }
    layers = _LAYERS[subnet]()
    parts = ("weight", "bias")
    names = {f"{theirs}.{part}": f"{subnet}.{ours}.{part}" for theirs, ours in layers.items() for part in parts}
    return renamed(found, names, f"the {subnet} subnet of multimodal transfer", source)


def _down(convs: str, norms: str, ours: str, layers: int) -> Names:
    names = {f"{convs}{i + 1}.conv2d": f"{ours}.{i}.conv" for i in range(layers)}
    return names | {f"{norms}{i + 1}": f"{ours}.{i}.norm" for i in range(layers)}


@dataclass(frozen=True, slots=True)
class _Run:
    """Residual blocks and what comes behind them, in one sequence."""

    ours: str
    at: int
    # position of the first in this package's sequence

    def residual(self, theirs: str, first: int, blocks: int) -> Names:
        names = {}
        for i in range(blocks):
            for half, number in (("first", 1), ("second", 2)):
                block = f"{theirs}{first + i}"
                names[f"{block}.conv{number}.conv2d"] = f"{self.ours}.{self.at + i}.{half}.conv"
                names[f"{block}.in{number}"] = f"{self.ours}.{self.at + i}.{half}.norm"
        return names

    def up(self, layers: int, norm: int) -> Names:
        """``layers`` with a norm, counted from ``norm``, and one without."""
        names = {f"rezconv{i + 1}.conv2d": f"{self.ours}.{self.at + i}.conv" for i in range(layers + 1)}
        return names | {f"in{norm + i}": f"{self.ours}.{self.at + i}.norm" for i in range(layers)}


def _style() -> Names:
    names = {"togray": "togray"}
    for theirs, ours in (("rgb", "rgb"), ("l", "grey")):
        names |= _down(f"{theirs}_conv", f"{theirs}_in", ours, 3) | _Run(ours, 3).residual(f"{theirs}_res", 1, 3)
    return names | _Run("joined", 0).residual("res", 4, 3) | _Run("joined", 3).up(2, norm=4)


def _enhance() -> Names:
    return _down("conv", "in", "layers", 4) | _Run("layers", 4).residual("res", 1, 6) | _Run("layers", 10).up(3, norm=5)


def _refine() -> Names:
    return _down("conv", "in", "layers", 3) | _Run("layers", 3).residual("res", 1, 3) | _Run("layers", 6).up(2, norm=4)


_LAYERS: dict[str, Callable[[], Names]] = {"style": _style, "enhance": _enhance, "refine": _refine}

"""Published names to this package's, and weights into modules: what methods share when they read and build.

Every refusal is one line: what was wanted, what there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from urst_tiles.errors import NetworkError
from urst_tiles.networks.recognition import recognise

__all__ = ["cleaned", "convolution_shape", "faults", "fill", "part_of", "refusal", "renamed"]

_DROPPED = (".running_mean", ".running_var", ".num_batches_tracked")
"""Statistics that training leaves and instance norms do not use."""


def cleaned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without DataParallel's prefix and running statistics, in float32."""
    return {
        re.sub(r"^(module\.)+", "", name): tensor.float()
        for name, tensor in state.items()
        if not name.endswith(_DROPPED)
    }


def refusal(state: Mapping[str, Tensor], what: str, source: str) -> NetworkError:
    """For weights of which nothing is known to belong to ``what`` ("a CycleGAN generator")."""
    looks_like = recognise(state)
    kind = f"look like {looks_like}" if looks_like else f"are of no known layout (first names: {_first(state)})"
    return NetworkError(f"{source}: not the weights of {what}; they {kind}")


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], what: str, source: str) -> dict[str, Tensor]:
    """Tensors by this package's names, for {the file's name: ours}. A norm's parameters become (C,).

    Raises:
        NetworkError: tensors are missing or left over.
    """
    missing = [name for name in names if name not in state]
    surplus = [name for name in state if name not in names]
    if missing or surplus:
        raise NetworkError(f"{source} looks like {what}, but {faults(missing, surplus)}")
    return {ours: _per_channel(state[theirs], ours) for theirs, ours in names.items()}


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def convolution_shape(state: Mapping[str, Tensor], name: str, what: str) -> tuple[int, int, int, int]:
    """Shape of a convolution's weight.

    Raises:
        NetworkError: it is missing, empty or of another rank.
    """
    if name not in state:
        raise NetworkError(f"{name} is missing: these are not all the weights of {what}")
    tensor = state[name]
    if tensor.ndim != 4 or not tensor.numel():
        raise NetworkError(f"{name} has shape {tuple(tensor.shape)}, which is no convolution's; {what} has one there")
    first, second, height, width = tensor.shape
    return first, second, height, width


def fill(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give every parameter of a module its weights.

    Raises:
        NetworkError: weights are missing, left over, or do not fit together.
    """
    parameters = dict(module.named_parameters())
    missing = [name for name in parameters if name not in state]
    surplus = [name for name in state if name not in parameters]
    if missing or surplus:
        raise NetworkError(f"the weights of {what} do not fit: {faults(missing, surplus)}")
    for name, parameter in parameters.items():
        if state[name].shape != parameter.shape:
            raise NetworkError(
                f"{name} has shape {tuple(state[name].shape)} where {what} of these widths has {tuple(parameter.shape)}"
            )
        parameter.data.copy_(state[name])


def _per_channel(tensor: Tensor, ours: str) -> Tensor:
    """Some codes store a norm's parameters as (1, C, 1, 1)."""
    is_norm = re.search(r"(^|\.)norm\d?\.(weight|bias)$", ours) is not None
    stored = is_norm and tensor.ndim == 4 and tensor.shape[0] == tensor.shape[2] == tensor.shape[3] == 1
    return tensor.reshape(-1) if stored else tensor


def _first(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3])


def faults(missing: Sequence[str], surplus: Sequence[str]) -> str:
    """What is wrong with names, in words: "a, b and 3 more are missing and c is not part of it"."""
    said = (_listed(names, what) for names, what in ((missing, "missing"), (surplus, "not part of it")))
    return " and ".join(filter(None, said))


def _listed(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more} {'is' if len(names) == 1 else 'are'} {what}"

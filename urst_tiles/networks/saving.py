"""Writing weights so that the file says itself what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork

__all__ = ["FORMAT", "save_state", "save_weights"]

FORMAT = "urst_tiles.weights"
VERSION = "1"


def save_weights(
    path: str | Path, network: StyleNetwork, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights of a network whose style is trained in as one safetensors file that
    ``load_network(network.name, path)`` reads. See :func:`save_state`.

    Raises:
        NetworkError: the network has no weights, or float16 cannot hold them.
    """
    state = network.module.state_dict()
    if not state:
        raise NetworkError(f"{network.name} has no weights to save")
    save_state(path, network.name, state, half=half, metadata=metadata)


def save_state(
    path: str | Path,
    method: str,
    state: Mapping[str, Tensor],
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a method's weights, by this package's names, as one safetensors file that says what it is.

    ``half`` stores weights and biases as float16 and value ranges as they are; they are float32 again when read. A
    reader never sees half of the file.

    Raises:
        NetworkError: float16 cannot hold the weights, or the file cannot be written.
    """
    tensors = {name: _stored(name, tensor, half=half) for name, tensor in state.items()}
    facts = {**(metadata or {}), "format": FORMAT, "version": VERSION, "method": method}
    path = Path(path)
    unfinished = path.with_name(path.name + ".partial")
    try:
        unfinished.write_bytes(to_safetensors(tensors, facts))
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise NetworkError(f"{path} cannot be written: {error.strerror or error}") from error


def _stored(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not half or not name.endswith((".weight", ".bias")):
        return tensor
    stored = tensor.to(torch.float16)
    if not stored.isfinite().all():
        raise NetworkError(f"{name} reaches {tensor.abs().max():.3g}, which float16 cannot hold; save with half=False")
    return stored

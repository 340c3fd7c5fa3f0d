"""Writing weights so that the file says itself what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork

__all__ = ["FORMAT", "save_weights"]

FORMAT = "urst_tiles.weights"
VERSION = "1"


def save_weights(
    path: str | Path, network: StyleNetwork, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the network's weights as one safetensors file that ``load_network(network.name, path)`` reads.

    ``half`` stores weights and biases as float16 and value ranges as they are; they are float32 again when read. A
    reader never sees half of the file.

    Raises:
        NetworkError: the network has no weights, or float16 cannot hold them.
    """
    state = network.module.state_dict()
    if not state:
        raise NetworkError(f"{network.name} has no weights to save")
    tensors = {name: _stored(name, tensor, half=half) for name, tensor in state.items()}
    facts = {**(metadata or {}), "format": FORMAT, "version": VERSION, "method": network.name}
    path = Path(path)
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(to_safetensors(tensors, facts))
    unfinished.replace(path)


def _stored(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not half or not name.endswith((".weight", ".bias")):
        return tensor
    stored = tensor.to(torch.float16)
    if not stored.isfinite().all():
        raise NetworkError(f"{name} reaches {tensor.abs().max():.3g}, which float16 cannot hold; save with half=False")
    return stored

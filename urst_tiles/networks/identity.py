"""The network that changes nothing: for copies, for I/O benchmarks and for testing everything around a network."""

from __future__ import annotations

from torch import Tensor, nn

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.method import Method

__all__ = ["METHOD", "IdentityNetwork", "identity_network"]


class IdentityNetwork(nn.Module):
    """(N, 3, H, W) → the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def identity_network() -> StyleNetwork:
    return StyleNetwork("identity", IdentityNetwork(), title="Identity")


METHOD = Method(
    paper="",
    summary="copies the image",
    read=lambda _files: {},
    build=lambda _state, _styling: identity_network(),
    sample=lambda _seed: {},
    takes_weights=False,
)

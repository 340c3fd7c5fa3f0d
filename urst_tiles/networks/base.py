"""A style network before and after freezing.

::

    StyleNetwork ──collect_statistics(thumbnail)──► Statistics
         └────────────freeze(statistics)──────────► FrozenNetwork     any image → the same size, no hidden state
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor, nn

from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.checkpoints import state_dict_hash
from urst_tiles.networks.freezing import freeze, replace_norms
from urst_tiles.networks.moments import Statistics
from urst_tiles.networks.normalization import frozen_norm, is_norm, neutral_moments, reference_norm
from urst_tiles.networks.padding import extend, round_up
from urst_tiles.networks.receptive_field import ReceptiveField, analyse
from urst_tiles.networks.styling import StylePass
from urst_tiles.networks.tracing import capture, operation
from urst_tiles.sources.base import Pixels

__all__ = ["AnySizeNetwork", "FrozenNetwork", "StyleNetwork"]


class AnySizeNetwork(nn.Module):
    """A module that wants multiples of ``stride`` no smaller than ``minimum``, made to take any size.

    ``forward``: (N, 3, H, W) floating point in [0, 1], H and W at least 1 → the same shape and dtype, clamped to [0, 1]
    and finite: the statistics of a blank thumbnail amplify so much, layer by layer, that deep networks overflow, and
    what is no number then is grey. Where a side does not fit, reflected pixels are added on the far edge (right,
    bottom) and cropped off again, so that pixel (0, 0) stays where the network's grid begins. Of a network that is
    ``trimmed``, so many pixels are missing on each side of the result.
    """

    def __init__(self, module: nn.Module, *, halo: int, stride: int, minimum: int, trimmed: int = 0) -> None:
        super().__init__()
        self.module = module
        self.halo = halo
        # in pixels, a multiple of stride
        self.stride = stride
        # in pixels
        self.minimum = minimum
        # in pixels, a multiple of stride
        self.trimmed = trimmed
        # in pixels

    def with_module(self, module: nn.Module, *, trimmed: int | None = None) -> AnySizeNetwork:
        """Another module that takes the same images."""
        trimmed = self.trimmed if trimmed is None else trimmed
        return AnySizeNetwork(module, halo=self.halo, stride=self.stride, minimum=self.minimum, trimmed=trimmed)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise InputError(f"the network takes (N, 3, H, W) in floating point, not {tuple(x.shape)} of {x.dtype}")
        height, width = x.shape[-2:]
        x = extend(x, self._side(height), self._side(width))
        y: Tensor = self.module(x)
        rows, cols = height - 2 * self.trimmed, width - 2 * self.trimmed
        return y[..., :rows, :cols].clamp(0.0, 1.0).nan_to_num_(nan=0.5)

    def _side(self, length: int) -> int:
        return max(round_up(length, self.stride), self.minimum)

    def extra_repr(self) -> str:
        return f"halo={self.halo}, stride={self.stride}, minimum={self.minimum}"


class FrozenNetwork(AnySizeNetwork):
    """A style network with its statistics folded in: a plain convolution net, image → image, no hidden state.
    Picklable.

    Two calls with the same image give the same result; two windows that hold the same core and its halo give the same
    core.
    """


class StyleNetwork:
    """A network, and the facts about it that tiling needs.

    ``module`` maps (N, 3, H, W) float32 RGB in [0, 1] to the same, H and W multiples of :attr:`stride`; the output may
    overshoot [0, 1] and is clamped later. Its norm layers are ordinary :class:`torch.nn.InstanceNorm2d`, or
    :class:`~urst_tiles.networks.normalization.Norm` where a method has another kind; value ranges
    other than [0, 1] are :class:`~urst_tiles.networks.normalization.ChannelAffine` layers inside it. It is put into
    evaluation mode and without gradients.

    Every fact is derived from the module's graph when first asked for, and raises NetworkError where the module cannot
    be tiled.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        weights_hash: str = "",
        title: str = "",
        licence: str = "",
        style_pass: StylePass | None = None,
    ) -> None:
        self.name = name
        # the method's name, as load_network takes it
        self.title = title or name
        # for people
        self.licence = licence
        # of the weights, where known
        self.style_pass = style_pass
        # what style images went through when this was built
        self.module = module.eval().requires_grad_(requires_grad=False)
        self._weights_hash = weights_hash
        self._recolour: Callable[[Pixels], StyleNetwork] | None = None

    def __repr__(self) -> str:
        return f"StyleNetwork({self.name!r}, {type(self.module).__name__})"

    @cached_property
    def weights_hash(self) -> str:
        """sha256 of names, shapes and values of the weights, value ranges included: what tells two networks apart."""
        given = self._weights_hash
        found = given or state_dict_hash(self.module.state_dict())
        return f"{found} in the colours of the raster" if self._recolour else found

    def recolour_with(self, make: Callable[[Pixels], StyleNetwork]) -> None:
        """Let :meth:`for_content` be ``make(thumbnail)``: for styles that take the colours of the raster."""
        self._recolour = make

    @property
    def wants_content(self) -> bool:
        """Whether :meth:`for_content` must be asked before statistics are collected."""
        return self._recolour is not None

    def for_content(self, thumbnail: Pixels) -> StyleNetwork:
        """The network for this raster: itself, or one whose style was given the raster's colours.

        ``thumbnail`` is (H, W, 3), uint8 or uint16.
        """
        return self if self._recolour is None else self._recolour(thumbnail)

    @cached_property
    def plain(self) -> nn.Module:
        """The module with invented constants in the place of each norm: the same graph, nothing left to measure.

        Its weights are the module's own.
        """
        neutral = {name: neutral_moments(layer) for name, layer in self.module.named_modules() if is_norm(layer)}
        return replace_norms(self.module, neutral, frozen_norm, share=True)

    @cached_property
    def field(self) -> ReceptiveField:
        """Halo, stride, scale and minimum, derived from the graph."""
        recording = capture(self.plain)
        found = analyse(recording)
        if found.scale != 1:
            raise NetworkError(
                f"{self.name} gives {found.scale} output pixels per input pixel; only 1 can be tiled so far"
            )
        # F.instance_norm leaves a node in the graph but no layer that statistics could be given to.
        if any(operation(node) == "instance_norm" for node in recording.graph.nodes):
            raise NetworkError(
                f"{self.name} calls F.instance_norm directly. Use an nn.InstanceNorm2d layer for each normalisation"
            )
        return found

    @property
    def halo(self) -> int:
        """Pixels around a core that decide it, rounded up to the stride."""
        return self.field.halo

    @property
    def stride(self) -> int:
        """In pixels: the network commutes with shifts by it."""
        return self.field.stride

    @property
    def scale(self) -> Fraction:
        """Output pixels per input pixel."""
        return self.field.scale

    @property
    def minimum(self) -> int:
        """Smallest side the network's own layers accept, in pixels, a multiple of the stride."""
        return self.field.minimum

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of the norm layers, in the order they run."""
        order: list[str] = []
        plain, side = self.plain, self.minimum
        handles = [
            plain.get_submodule(name).register_forward_pre_hook(lambda _module, _inputs, name=name: order.append(name))
            for name, layer in self.module.named_modules()
            if is_norm(layer)
        ]
        try:
            with torch.inference_mode():
                plain(torch.zeros(1, 3, side, side, dtype=self.dtype, device=self.device))
        finally:
            for handle in handles:
                handle.remove()
        twice = [name for name, count in Counter(order).items() if count > 1]
        if twice:
            raise NetworkError(
                f"norm layer {twice[0]} of {self.name} is used more than once; give each use its own layer"
            )
        return tuple(order)

    @property
    def neutral_statistics(self) -> Statistics:
        """Invented statistics that fit: for the frozen network's shape and cost, without a thumbnail."""
        return Statistics({name: neutral_moments(self.module.get_submodule(name)) for name in self.norms}, (1, 1))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; float32 where there are none."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Of the weights; the CPU where there are none."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def freeze(self, statistics: Statistics) -> FrozenNetwork:
        """The network with these statistics folded in. This one is left as it is.

        Raises:
            NetworkError: the statistics are of another network, or a layer cannot be tiled.
        """
        self._check(statistics)
        module = freeze(self.module, statistics, stride=self.stride, minimum=self.minimum)
        return FrozenNetwork(module, halo=self.halo, stride=self.stride, minimum=self.minimum)

    def normalise_with(self, statistics: Statistics) -> AnySizeNetwork:
        """The unfrozen network with the same statistics, Eq. 2 of the paper in every norm layer: the reference for
        freezing.
        """
        self._check(statistics)
        module = replace_norms(self.module, statistics, reference_norm).eval()
        return AnySizeNetwork(module, halo=self.halo, stride=self.stride, minimum=self.minimum)

    def _check(self, statistics: Statistics) -> None:
        missing = [name for name in self.norms if name not in statistics]
        surplus = [name for name in statistics if name not in self.norms]
        if missing or surplus:
            raise NetworkError(
                f"the statistics do not fit {self.name}: {len(missing)} of {len(self.norms)} norm layers are missing "
                f"({', '.join(missing[:3]) or 'none'}) and {len(surplus)} are of another network. "
                "Collect them with this network"
            )

"""Wang, Oxholm, Zhang, Wang: "Multimodal Transfer: A Hierarchical Deep Convolutional Neural Network for Fast Artistic
Style Transfer", CVPR 2017.

Three networks one after another, each trained at its own scale: coarse strokes at the size of the picture, finer ones
at twice the size, and detail::

    style (RGB and luminance) → x2 bilinear → enhance → refine → half the size

The network paints at twice the picture's size. The published code scales that back with align_corners=True, whose
pixels depend on the size of what is scaled, so that windows cannot make up a whole. Here each pixel is the mean of the
2 x 2 that were painted for it, which is exact in windows and keeps the same size.

The published clamp between the subnets takes red's deviation for 0.299, which is 0.229: see ``multimodal_layers``.
"""

from __future__ import annotations

from torch import Tensor, nn

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.multimodal_layers import EnhanceSubnet, RefineSubnet, StyleSubnet
from urst_tiles.networks.multimodal_layouts import read_subnets
from urst_tiles.networks.renaming import convolution_shape, fill
from urst_tiles.networks.sampling import make_lively
from urst_tiles.networks.styling import Styling

__all__ = ["METHOD", "MultimodalNetwork"]

WHAT = "multimodal transfer"


class MultimodalNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] → the same, H and W multiples of 4."""

    def __init__(self, style: StyleSubnet, enhance: EnhanceSubnet, refine: RefineSubnet) -> None:
        super().__init__()
        self.style, self.enhance, self.refine = style, enhance, refine
        self.shrink = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shrink(self.refine(self.enhance(self.style(x))))
        return y


def _widths(state: State, sequence: str, first: int, layers: int) -> list[int]:
    """Channels that consecutive layers of a sequence give."""
    names = (f"{sequence}.{i}.conv.weight" for i in range(first, first + layers))
    return [convolution_shape(state, name, WHAT)[0] for name in names]


def _build(state: State, _styling: Styling) -> StyleNetwork:
    module = MultimodalNetwork(
        StyleSubnet(_widths(state, "style.rgb", 0, 3), _widths(state, "style.joined", 3, 2)),
        EnhanceSubnet(_widths(state, "enhance.layers", 0, 4), _widths(state, "enhance.layers", 10, 3)),
        RefineSubnet(_widths(state, "refine.layers", 0, 3), _widths(state, "refine.layers", 6, 2)),
    )
    fill(module, state, WHAT)
    return StyleNetwork("multimodal", module, title="Multimodal Transfer (Wang et al. 2017)", licence=METHOD.licence)


def _sample(seed: int) -> dict[str, Tensor]:
    module = MultimodalNetwork(
        StyleSubnet((4, 6, 8), (8, 6)), EnhanceSubnet((4, 4, 6, 8), (8, 6, 6)), RefineSubnet((4, 6, 8), (8, 6))
    )
    make_lively(module, seed)
    return {name: value.detach() for name, value in module.named_parameters()}


METHOD = Method(
    paper="Wang et al., CVPR 2017",
    summary="Multimodal Transfer: three trained networks per style, for strokes of several sizes",
    read=read_subnets,
    build=_build,
    sample=_sample,
    files="state dicts of the three subnets, named like style_subnet_X, enhance_subnet_X and refine_subnet_X (the "
    "published .pt files are pickled modules and must be converted: load one to be told how)",
    published="https://github.com/FeliMe/multimodal_style_transfer (not by the paper's authors)",
    licence="not stated",
)

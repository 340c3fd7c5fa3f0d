"""Wang, Li, Wang, Hu, Yang: "Collaborative Distillation for Ultra-Resolution Universal Style Transfer", CVPR 2020.

WCT (:mod:`urst_tiles.networks.wct`) with encoders and decoders of a sixteenth of the parameters, distilled from VGG-19
for pictures of many megapixels. Two things differ from WCT: the layers are narrow, and each decoder ends in a ReLU, so
that no level hands on colours below 0. Their 1x1 convolutions named aux serve training only.

As in the published implementation of thumbnail statistics, the whitening is WCT's own, with I added to the content's
covariance; Wang et al.'s own code adds nothing.
"""

from __future__ import annotations

from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.method import Method, State
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.wct import random_levels, wct_network
from urst_tiles.networks.wct_layouts import FileNames, read_levels

__all__ = ["METHOD"]

LICENCE = "MIT"
FILES = FileNames(
    what="Wang et al. (collaborative distillation)",
    encoder=r"{}SE\.\w+",
    decoder=r"{}SD\.\w+",
    example="{0}SE.pth and {0}SD.pth",
)


def _build(state: State, styling: Styling) -> StyleNetwork:
    title = "Wang et al. 2020 (collaborative distillation)"
    return wct_network(state, styling, name="collaborative", title=title, licence=LICENCE, positive=True)


METHOD = Method(
    paper="Wang et al., CVPR 2020",
    summary="WCT with distilled networks of a sixteenth of the size: any style image, for large rasters",
    read=lambda files: read_levels(files, FILES),
    build=_build,
    sample=random_levels,
    files=(
        "{n}SE.pth and {n}SD.pth for each level n to run, of 5 to 1: all of them, or fewer for less abstraction and a "
        "smaller halo; they may stand in two folders"
    ),
    published=(
        "https://github.com/MingSun-Tse/Collaborative-Distillation (trained_models/wct_se_16x_new and "
        "wct_se_16x_new_sd)"
    ),
    licence=LICENCE,
    takes_style=True,
    takes_alpha=True,
)

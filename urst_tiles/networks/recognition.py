"""Telling whose weights a file holds, from the names and shapes in it: for messages, never for loading."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["recognise"]

_SIGNS: tuple[tuple[str, str], ...] = (
    (r"conv1\.conv2d\.weight", "a Johnson network (pytorch/examples layout)"),
    (r"conv1\.block\.1\.weight", "a Johnson network (URST layout)"),
    (r"model\.0\.block\.1\.weight", "a Johnson network (Fast-Neural-Style-Transfer layout)"),
    (r"conv1\.conv\.weight", "a Johnson network (this package's layout)"),
    (r"enc1\.0\.conv_layer\.weight", "a MicroAST encoder"),
    (r"dec1\.conv1\.conv_layer\.weight", "a MicroAST decoder"),
    (r"weight1\.0\.conv_layer\.weight", "a MicroAST modulator"),
    (r"[sc]net\.convs\.0\.weight", "LinearWCT's transformation matrices"),
    (r"(model1\.0\.conv2d\.weight|model\.0\.0\.conv2d\.weight|ins\.weight)", "MSG-Net"),
    (r"inspiration\.weight", "MSG-Net (this package's layout)"),
    (r"model\.10\.conv_block\.1\.weight", "a CycleGAN generator"),
    (r"model\.1[12]\.conv_block\.1\.weight", "a CUT generator"),
    (r"first\.conv\.weight", "a CycleGAN generator (this package's layout)"),
    (r"style\.rgb\.0\.conv\.weight", "Wang et al.'s multimodal transfer (this package's layout)"),
    (r"resnetblocks4\.0\.model\.1\.weight", "a CycleGAN or CUT generator (KIN/DN layout)"),
    (r"features\.0\.weight", "a VGG loss network"),
    (r"conv0\.weight", "an encoder of WCT or Wang et al. (collaborative distillation)"),
    (r"conv19\.weight", "a LinearWCT decoder (r41)"),
    (r"conv1\.weight", "a LinearWCT encoder"),
    (r"conv7\.weight", "a LinearWCT decoder (r31)"),
    (r"conv11\.weight", "a decoder of WCT or Wang et al. (collaborative distillation)"),
    (r"0\.weight", "a VGG encoder of AdaIN or WCT"),
    (r"1\.weight", "a decoder of AdaIN or WCT"),
)
"""First match wins: the more telling names stand first."""


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """What these weights look like, as a phrase ("MSG-Net", "a MicroAST decoder"), or None."""
    names = {re.sub(r"^(module\.)+", "", name) for name in state}
    if any(name.startswith("rezconv1.") for name in names):  # shares conv1.conv2d with Johnson's networks
        return "a subnet of Wang et al.'s multimodal transfer"
    if any(name.startswith("style_subnet.") for name in names):
        return "Wang et al.'s multimodal transfer"
    return next((phrase for sign, phrase in _SIGNS if any(re.fullmatch(sign, name) for name in names)), None)

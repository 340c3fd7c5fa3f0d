"""Johnson networks: every published layout gives the same network; what does not fit is said in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.networks_support import (
    in_float64,
    largest_difference,
    needs_shared,
    noise,
    photo,
    statistics_of,
    tensor,
    weights,
)
from urst_tiles.errors import NetworkError
from urst_tiles.networks import load_network, load_state_dict
from urst_tiles.networks.johnson import JohnsonNetwork, johnson_network
from urst_tiles.networks.recognition import recognise
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import collect_statistics

State = dict[str, Tensor]


def urst(blocks: int = 5, width: int = 2) -> State:
    """A random state dict with the names of design/checkpoint_layouts.md, written out here a second time on purpose."""
    widths = [width, 2 * width, 4 * width]
    state: State = {}

    def layer(name: str, inputs: int, outputs: int, kernel: int, *, norm: bool = True) -> None:
        state[f"{name}.block.1.weight"] = torch.randn(outputs, inputs, kernel, kernel)
        state[f"{name}.block.1.bias"] = torch.randn(outputs)
        if norm:
            state[f"{name}.norm.weight"] = torch.rand(outputs) + 0.5
            state[f"{name}.norm.bias"] = torch.randn(outputs)

    torch.manual_seed(0)
    layer("conv1", 3, widths[0], 9)
    layer("conv2", widths[0], widths[1], 3)
    layer("conv3", widths[1], widths[2], 3)
    for block in range(1, blocks + 1):
        layer(f"res{block}.block1", widths[2], widths[2], 3)
        layer(f"res{block}.block2", widths[2], widths[2], 3)
    layer("deconv1", widths[2], widths[1], 3)
    layer("deconv2", widths[1], widths[0], 3)
    layer("deconv3", widths[0], 3, 9, norm=False)
    return state


def as_fnst(state: State) -> State:
    """Names of the Fast-Neural-Style-Transfer repository."""

    def rename(name: str) -> str:
        blocks = sum(bool(re.fullmatch(r"res\d+\.block1\.block\.1\.weight", other)) for other in state)
        name = re.sub(r"^conv(\d)", lambda m: f"model.{int(m[1]) - 1}", name)
        name = re.sub(r"^res(\d+)\.block(\d)", lambda m: f"model.{int(m[1]) + 2}.block.{int(m[2]) - 1}", name)
        return re.sub(r"^deconv(\d)", lambda m: f"model.{int(m[1]) + 2 + blocks}", name)

    return {rename(name): value for name, value in state.items()}


def as_examples(state: State) -> State:
    """Names of pytorch/examples."""
    rules = [
        (r"^(conv\d)\.block\.1", r"\1.conv2d"),
        (r"^conv(\d)\.norm", r"in\1"),
        (r"^(res\d+)\.block(\d)\.block\.1", r"\1.conv\2.conv2d"),
        (r"^(res\d+)\.block(\d)\.norm", r"\1.in\2"),
        (r"^(deconv\d)\.block\.1", r"\1.conv2d"),
        (r"^deconv1\.norm", "in4"),
        (r"^deconv2\.norm", "in5"),
    ]
    renamed = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    return renamed


def same_layers(one: JohnsonNetwork | torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine if "range" not in k)


@pytest.mark.parametrize("blocks", [0, 1, 5, 12])
def test_the_three_published_layouts_give_the_same_layers(blocks: int) -> None:
    state = urst(blocks)
    reference = johnson_network(state).module
    assert isinstance(reference, JohnsonNetwork)
    assert len(reference.residual) == blocks
    assert torch.equal(reference.conv2.conv.weight, state["conv2.block.1.weight"])
    assert torch.equal(reference.state_dict()["deconv1.norm.bias"], state["deconv1.norm.bias"])
    assert same_layers(johnson_network(as_fnst(state)).module, reference)
    assert same_layers(johnson_network(as_examples(state)).module, reference)


def test_marks_of_training_are_dropped() -> None:
    state = urst()
    marked: State = {}
    for name, value in state.items():
        shaped = value.reshape(1, -1, 1, 1) if ".norm." in name else value
        marked["module." + name.replace(".norm.", ".norm.norm.")] = shaped
    marked["module.conv1.norm.norm.running_mean"] = torch.zeros(2)
    marked["module.conv1.norm.norm.num_batches_tracked"] = torch.tensor(1)
    assert same_layers(johnson_network(marked).module, johnson_network(state).module)
    examples = as_examples(state) | {"in1.running_mean": torch.zeros(2), "in1.running_var": torch.ones(2)}
    assert same_layers(johnson_network(examples).module, johnson_network(state).module)


def test_value_ranges_follow_the_layout() -> None:
    """What the first convolution sees of a mid-grey pixel, by hand."""
    grey = torch.full((1, 3, 8, 8), 0.5)
    imagenet, levels = johnson_network(urst()).module, johnson_network(as_examples(urst())).module
    assert isinstance(imagenet, JohnsonNetwork)
    assert isinstance(levels, JohnsonNetwork)
    seen = imagenet.range_in(grey)[0, :, 0, 0].tolist()
    assert seen == pytest.approx([(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225], abs=1e-6)
    assert levels.range_in(grey).unique().tolist() == [127.5]
    for module in (imagenet, levels):
        assert largest_difference(module.range_out(module.range_in(tensor(noise(4, 4)))), tensor(noise(4, 4))) < 1e-6
    asked = johnson_network(urst(), value_range="rgb-0-255").module
    assert torch.equal(asked.state_dict()["range_in.scale"], levels.state_dict()["range_in.scale"])
    with pytest.raises(NetworkError, match="there are imagenet, rgb-0-255"):
        johnson_network(urst(), value_range="bgr")


def test_half_precision_weights_become_float32() -> None:
    network = johnson_network({name: value.half() for name, value in urst().items()})
    assert network.dtype == torch.float32
    assert network.module(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def without(*names: str) -> State:
    return {name: value for name, value in urst().items() if name not in names}


BROKEN: dict[str, tuple[State, str]] = {
    "missing": (without("deconv2.norm.bias"), r"URST layout, 5 residual blocks.*deconv2\.norm\.bias is missing"),
    "many missing": (without("conv1.norm.bias", "conv1.norm.weight", "conv1.block.1.bias"), "1 more are missing"),
    "a hole in the blocks": (without(*(n for n in urst() if n.startswith("res2"))), "1 residual blocks.*not part"),
    "surplus": (urst() | {"extra.weight": torch.zeros(1)}, r"extra\.weight is not part of it"),
    "shape": (urst() | {"conv2.block.1.weight": torch.zeros(4, 5, 3, 3)}, r"conv2\.conv.* has shape \(4, 5, 3, 3\)"),
    "kernel": (urst() | {"conv1.block.1.weight": torch.zeros(2, 3, 7, 7)}, r"\(2, 3, 7, 7\).*\(2, 3, 9, 9\)"),
    "nothing known": ({"foo.weight": torch.zeros(2)}, r"of no known layout \(first names: foo\.weight\)"),
    "no dimensions": (urst() | {"conv3.block.1.weight": torch.tensor(1.0)}, "conv3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_said_in_one_line(kind: str) -> None:
    state, says = BROKEN[kind]
    with pytest.raises(NetworkError, match=says) as caught:
        johnson_network(state, source="some.pth")
    assert str(caught.value).startswith("some.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["model1.0.conv2d.weight", "ins.weight", "model.1.weight"], "MSG-Net"),
        (["module.model.1.weight", "module.model.10.conv_block.1.weight"], "CycleGAN"),
        (["block1.0.weight", "resnetblocks4.0.model.1.weight"], "KIN/DN"),
        (["snet.convs.0.weight", "compress.weight"], "LinearWCT"),
        (["conv1.conv2d.weight", "in1.weight", "rezconv1.conv2d.weight"], "multimodal"),
        (["conv1.weight", "conv2.weight"], "LinearWCT encoder"),
        (["conv11.weight", "conv19.weight"], "LinearWCT decoder"),
    ],
)
def test_other_methods_are_recognised_by_their_names(names: list[str], phrase: str) -> None:
    state = dict.fromkeys(names, torch.zeros(1))
    assert phrase in (recognise(state) or "")
    with pytest.raises(NetworkError, match="not the weights of a Johnson network; they look like"):
        johnson_network(state)


@needs_shared
@pytest.mark.parametrize(
    ("file", "phrase"),
    [
        ("wct/feature_invertor_conv3_1.pth", "decoder of AdaIN or WCT"),
        ("wct/vgg_normalised_conv2_1.pth", "VGG encoder"),
        ("collaborative/5SE.pth", "encoder of WCT or Wang"),
        ("collaborative/4SD.pth", "decoder of WCT or Wang"),
        ("microast/content_encoder_iter_160000.pth.tar", "MicroAST encoder"),
        ("microast/modulator_iter_160000.pth.tar", "MicroAST modulator"),
        ("microast/decoder_iter_160000.pth.tar", "MicroAST decoder"),
        ("vgg19/vgg19_caffe_conv1_1-conv3_4.pth", "VGG loss network"),
    ],
)
def test_real_files_of_other_methods_are_named(file: str, phrase: str) -> None:
    with pytest.raises(NetworkError, match=f"look like an? {phrase}"):
        load_network("johnson", weights(file))


@needs_shared
@pytest.mark.parametrize(
    ("file", "width"),
    [
        ("mosaic.pth", 32),
        ("mosaic_urst_original.pth", 32),
        ("rain_princess.pth", 32),
        ("mosaic_width16.model", 16),
        ("rain_princess_width16.model", 16),
        ("mosaic_width8.model", 8),
    ],
)
def test_real_files_of_any_width_load_and_paint(file: str, width: int) -> None:
    network = load_network("johnson", weights(f"johnson/{file}"))
    assert network.module.get_submodule("conv1.conv").out_channels == width
    assert (network.halo, network.stride, len(network.norms)) == (56, 4, 15)
    pixels = photo(48, 64)
    with torch.inference_mode():
        picture = network.freeze(collect_statistics(network, pixels))(tensor(pixels))
    assert picture.std() > 0.1


@needs_shared
def test_the_same_style_in_two_layouts_is_the_same_picture() -> None:
    """mosaic_urst_original.pth is mosaic.pth with ImageNet's range folded in. Compared in float64: the files differ by
    rounding already."""
    pixels = photo(120, 160)
    one, other = (
        in_float64(load_network("johnson", weights(f"johnson/{name}")))
        for name in ("mosaic.pth", "mosaic_urst_original.pth")
    )
    with torch.inference_mode():
        pictures = [
            network.freeze(collect_statistics(network, pixels))(tensor(pixels, torch.float64))
            for network in (one, other)
        ]
    assert largest_difference(*pictures) < 1e-4
    assert len(load_state_dict(weights("johnson/mosaic.pth"))) == 62


def test_the_hash_sees_weights_and_value_ranges() -> None:
    hashes = {
        untrained(width=2).weights_hash,
        untrained(width=2, seed=1).weights_hash,
        johnson_network(urst()).weights_hash,
        johnson_network(as_fnst(urst())).weights_hash,
        johnson_network(as_examples(urst())).weights_hash,
    }
    assert len(hashes) == 4  # of the three layouts, the two with ImageNet's range are one network


def test_untrained_networks_freeze_like_any_other(tmp_path: Path) -> None:
    network = untrained(width=2)
    assert network.freeze(statistics_of(network)).halo == 56

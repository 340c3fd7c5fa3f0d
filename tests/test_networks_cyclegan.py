"""CycleGAN generators: the published layouts of three codes, each written out a second time, and the laws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, instance_norm, pad, relu

from tests.law_support import (
    check_blank_thumbnails,
    check_freezing,
    check_statistics_in_windows,
    check_tiling,
    check_tiling_in_float32,
    halo_seen,
    saved,
    waves,
)
from tests.networks_support import in_float64, largest_difference, tensor
from tests.test_freezing import left_over
from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.cyclegan import METHOD, Blurs, sample_generator
from urst_tiles.networks.styling import Styling

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

BINOMIAL = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])


def cyclegan(width: int, blocks: int = 9, *, second: int = 5) -> Shapes:
    """Names and shapes of the CycleGAN code's file; ``second``: number of a block's second convolution."""
    a, b, c = width, 2 * width, 4 * width
    found: Shapes = {"model.1": (a, 3, 7, 7), "model.4": (b, a, 3, 3), "model.7": (c, b, 3, 3)}
    for i in range(10, 10 + blocks):
        found[f"model.{i}.conv_block.1"] = found[f"model.{i}.conv_block.{second}"] = (c, c, 3, 3)
    found |= {f"model.{10 + blocks}": (c, b, 3, 3), f"model.{13 + blocks}": (b, a, 3, 3)}
    return found | {f"model.{17 + blocks}": (3, a, 7, 7)}


def cut(width: int) -> Shapes:
    """Of the CUT code's file with 9 blocks, without the blurs."""
    a, b, c = width, 2 * width, 4 * width
    found: Shapes = {"model.1": (a, 3, 7, 7), "model.4": (b, a, 3, 3), "model.8": (c, b, 3, 3)}
    for i in range(12, 21):
        found[f"model.{i}.conv_block.1"] = found[f"model.{i}.conv_block.5"] = (c, c, 3, 3)
    return found | {"model.22": (b, c, 3, 3), "model.26": (a, b, 3, 3), "model.30": (3, a, 7, 7)}


def kin(width: int) -> Shapes:
    """Of the KIN and DN codes' file."""
    a, b, c = width, 2 * width, 4 * width
    found: Shapes = {"block1.0": (a, 3, 7, 7)}
    found |= {"downsampleblock2.conv": (b, a, 3, 3), "downsampleblock2.downsample.conv": (b, b, 3, 3)}
    found |= {"downsampleblock3.conv": (c, b, 3, 3), "downsampleblock3.downsample.conv": (c, c, 3, 3)}
    for i in range(9):
        found[f"resnetblocks4.{i}.model.1"] = found[f"resnetblocks4.{i}.model.5"] = (c, c, 3, 3)
    found |= {"upsampleblock5.upsample.model.1": (c, c, 4, 4), "upsampleblock5.conv": (b, c, 3, 3)}
    found |= {"upsampleblock6.upsample.model.1": (b, b, 4, 4), "upsampleblock6.conv": (a, b, 3, 3)}
    return found | {"block7.1": (3, a, 7, 7)}


def filled(shapes: Shapes, transposed: tuple[str, ...] = (), *, zeros: bool = False) -> State:
    """Weights and biases of these layers; of transposed convolutions the second side is the outputs."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes.items():
        outputs = shape[1] if name in transposed else shape[0]
        if zeros:
            state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(shape), torch.zeros(outputs)
        else:
            gain = (2 / torch.Size(shape[1:]).numel()) ** 0.5
            state[f"{name}.weight"] = gain * torch.randn(shape, generator=generator)
            state[f"{name}.bias"] = 0.3 * torch.randn(outputs, generator=generator)
    return state


def with_blurs(state: State, width: int) -> State:
    small, large = (line[:, None] * line for line in BINOMIAL)
    blurs = {"model.7": 2, "model.11": 4, "model.21": 4, "model.25": 2}
    for name, times in blurs.items():
        blur = small / small.sum() if name in ("model.7", "model.11") else 4 * large / large.sum()
        state[f"{name}.filt"] = blur.expand(times * width, 1, -1, -1).clone()
    return state


UP9 = ("model.19", "model.22")
KIN_UP = ("upsampleblock5.upsample.model.1", "upsampleblock6.upsample.model.1")


class Reference:
    """The published forward passes from the files' own names. (1, 3, H, W) RGB in [0, 1] → the same, float64."""

    def __init__(self, state: State) -> None:
        self.state = {name: value.double() for name, value in state.items()}

    def conv(self, name: str, x: Tensor, stride: int = 1, zeros: int = 0) -> Tensor:
        return conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=stride, padding=zeros)

    def block(self, first: str, second: str, x: Tensor) -> Tensor:
        y = relu(instance_norm(self.conv(first, pad(x, (1,) * 4, mode="reflect"))))
        return x + instance_norm(self.conv(second, pad(y, (1,) * 4, mode="reflect")))

    def begin(self, name: str, image: Tensor) -> Tensor:
        x = (image - 0.5) / 0.5
        return relu(instance_norm(self.conv(name, pad(x, (3,) * 4, mode="reflect"))))

    def end(self, name: str, x: Tensor) -> Tensor:
        return (torch.tanh(self.conv(name, pad(x, (3,) * 4, mode="reflect"))) + 1) / 2

    def same(self, name: str, x: Tensor) -> Tensor:
        return relu(instance_norm(self.conv(name, x, 1, 1)))

    def cyclegan(self, image: Tensor, blocks: int, second: int) -> Tensor:
        x = self.begin("model.1", image)
        for name in ("model.4", "model.7"):
            x = relu(instance_norm(self.conv(name, x, 2, 1)))
        for i in range(10, 10 + blocks):
            x = self.block(f"model.{i}.conv_block.1", f"model.{i}.conv_block.{second}", x)
        for name in (f"model.{10 + blocks}", f"model.{13 + blocks}"):
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            x = relu(instance_norm(conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)))
        return self.end(f"model.{17 + blocks}", x)

    def cut(self, image: Tensor) -> Tensor:
        def shrunk(name: str, x: Tensor) -> Tensor:
            return conv2d(pad(x, (1,) * 4, mode="reflect"), self.state[name], stride=2, groups=x.shape[1])

        def grown(name: str, x: Tensor) -> Tensor:
            edged = pad(x, (1,) * 4, mode="replicate")
            blurred = conv_transpose2d(edged, self.state[name], stride=2, padding=2, groups=x.shape[1])
            return blurred[:, :, 1:-1, 1:-1]

        x = shrunk("model.7.filt", self.same("model.4", self.begin("model.1", image)))
        x = shrunk("model.11.filt", self.same("model.8", x))
        for i in range(12, 21):
            x = self.block(f"model.{i}.conv_block.1", f"model.{i}.conv_block.5", x)
        x = self.same("model.22", grown("model.21.filt", x))
        return self.end("model.30", self.same("model.26", grown("model.25.filt", x)))

    def kin(self, image: Tensor) -> Tensor:
        x = self.begin("block1.0", image)
        for name in ("downsampleblock2", "downsampleblock3"):
            x = pad(self.same(f"{name}.conv", x), (1,) * 4, mode="reflect")
            x = self.conv(f"{name}.downsample.conv", x, 2)
        for i in range(9):
            x = self.block(f"resnetblocks4.{i}.model.1", f"resnetblocks4.{i}.model.5", x)
        for name in ("upsampleblock5", "upsampleblock6"):
            weight, bias = (self.state[f"{name}.upsample.model.1.{part}"] for part in ("weight", "bias"))
            x = conv_transpose2d(pad(x, (1,) * 4, mode="replicate"), weight, bias, stride=2, padding=3)
            x = self.same(f"{name}.conv", x)
        return self.end("block7.1", x)


def expected(kind: str, state: State, image: Tensor) -> Tensor:
    reference = Reference(state)
    if kind == "kin":
        return reference.kin(image)
    if kind == "cut":
        return reference.cut(image)
    return reference.cyclegan(image, 6 if kind == "6 blocks" else 9, 6 if kind == "dropout" else 5)


def published(kind: str, width: int = 3, *, zeros: bool = False) -> State:
    if kind == "kin":
        return filled(kin(width), KIN_UP, zeros=zeros)
    if kind == "cut":
        return with_blurs(filled(cut(width), zeros=zeros), width)
    if kind == "6 blocks":
        return filled(cyclegan(width, 6), ("model.16", "model.19"), zeros=zeros)
    return filled(cyclegan(width, second=6 if kind == "dropout" else 5), UP9, zeros=zeros)


FACTS = {
    # file: (halo, norms, tensors, elements), the last two of the published file where a listing has them
    "9 blocks": (84, 23, 48, 11_378_179),
    "6 blocks": (60, 17, 36, None),
    "dropout": (84, 23, 48, 11_378_179),
    "cut": (96, 23, 52, None),
    "kin": (96, 23, 56, 13_426_947),
}


@pytest.mark.parametrize("kind", FACTS)
def test_the_network_is_the_published_one(kind: str, tmp_path: Path) -> None:
    state = published(kind)
    network = METHOD.build(METHOD.read(saved(state, tmp_path / "latest_net_G.pth")), Styling())
    image = tensor(waves(44, 36), torch.float64)
    with torch.inference_mode():
        wanted = expected(kind, state, image)
        assert largest_difference(in_float64(network).module(image), wanted) < 1e-11
    assert wanted.std() > 0.1


@pytest.mark.parametrize("kind", FACTS)
def test_published_shapes_load_and_give_the_facts(kind: str, tmp_path: Path) -> None:
    halo, norms, tensors, elements = FACTS[kind]
    state = published(kind, 64, zeros=True)
    assert len(state) == tensors
    assert elements in (None, sum(value.numel() for value in state.values()))
    marked = {f"module.{name}": value.half() for name, value in state.items()}
    marked |= {"module.model.2.running_mean": torch.zeros(64), "module.model.2.num_batches_tracked": torch.tensor(1)}
    network = METHOD.build(METHOD.read(saved(marked, tmp_path / "latest_net_G.pth")), Styling())
    assert (network.halo, network.stride, len(network.norms)) == (halo, 4, norms)
    assert network.module.get_submodule("residual.0.first.conv").out_channels == 256


def test_blurs_on_one_side_only(tmp_path: Path) -> None:
    """The CUT code can leave them out behind the blocks, which moves the numbers there alone."""
    a, b, c = 3, 6, 12
    shapes = {name: shape for name, shape in cut(3).items() if name not in ("model.22", "model.26", "model.30")}
    shapes |= {"model.21": (c, b, 3, 3), "model.24": (b, a, 3, 3), "model.28": (3, a, 7, 7)}
    state = with_blurs(filled(shapes, ("model.21", "model.24")), 3)
    del state["model.21.filt"], state["model.25.filt"]
    network = METHOD.build(METHOD.read(saved(state, tmp_path / "G.pth")), Styling())
    assert network.halo == 88
    assert network.module.get_submodule("up1.conv").weight.shape == (c, b, 3, 3)


@pytest.mark.parametrize("kind", FACTS)
def test_what_was_read_is_read_again_and_built(kind: str, tmp_path: Path) -> None:
    once = METHOD.read(saved(published(kind), tmp_path / "file.pth"))
    twice = METHOD.read(saved(once, tmp_path / "again.pth"))
    assert METHOD.build(once, Styling()).weights_hash == METHOD.build(twice, Styling()).weights_hash


def without(kind: str, name: str) -> State:
    return {other: value for other, value in published(kind).items() if other != name}


BROKEN: dict[str, tuple[State, str]] = {
    "missing": (without("9 blocks", "model.22.bias"), r"CycleGAN generator, but model\.22\.bias is missing"),
    "missing in KIN": (without("kin", "upsampleblock5.conv.weight"), r"upsampleblock5\.conv\.weight is missing"),
    "a hole": (without("9 blocks", "model.14.conv_block.1.weight"), "not part of it"),
    "left over": (published("kin") | {"head.bias": torch.zeros(2)}, r"head\.bias is not part of it"),
    "batch norms": (
        published("9 blocks") | {"model.2.weight": torch.ones(3), "model.2.bias": torch.zeros(3)},
        r"norm weights \(model\.2\.weight\): it was trained with batch norms",
    ),
    "another method": ({"enc1.0.conv_layer.weight": torch.zeros(1)}, "look like a MicroAST encoder"),
    "a U-net": ({"model.model.0.weight": torch.zeros(1)}, r"of no known layout \(first names: model\.model\.0\.weight"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_said_in_one_line(kind: str, tmp_path: Path) -> None:
    state, says = BROKEN[kind]
    with pytest.raises(NetworkError, match=says) as caught:
        METHOD.read(saved(state, tmp_path / "some.pth"))
    assert str(caught.value).startswith(str(tmp_path / "some.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("9 blocks", "residual.3.second.conv.weight", (12, 11, 3, 3)),
        ("9 blocks", "up1.conv.weight", (6, 12, 3, 3)),
        ("kin", "down1.sample.weight", (6, 4, 3, 3)),
        ("cut", "up2.sample.weight", (7, 1, 4, 4)),
        ("cut", "up2.sample.weight", (6, 1, 3, 3)),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(
    kind: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    weights = METHOD.read(saved(published(kind), tmp_path / "G.pth")) | {name: torch.zeros(shape)}
    with pytest.raises(NetworkError, match=name.replace(".", r"\.")):
        METHOD.build(weights, Styling())


VARIANTS: dict[str, tuple[int, Blurs]] = {
    "9 blocks": (9, (None, None, None, None)),
    "6 blocks": (6, (None, None, None, None)),
    "cut": (9, (1, 1, 1, 1)),
    "kin": (9, (6, 8, 8, 6)),
}


def variant(kind: str, seed: int = 0) -> StyleNetwork:
    blocks, blurs = VARIANTS[kind]
    return StyleNetwork("cyclegan", sample_generator(seed, blocks, blurs))


@pytest.mark.parametrize("kind", VARIANTS)
def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight(kind: str) -> None:
    network = variant(kind)
    assert (network.halo, network.stride) == (FACTS[kind][0], 4)
    check_tiling(network, height=21)
    check_tiling_in_float32(network)
    assert halo_seen(network) == network.halo


@pytest.mark.parametrize("kind", VARIANTS)
def test_law_5_frozen_equals_unfrozen(kind: str) -> None:
    assert left_over(check_freezing(variant(kind))) == []


def test_statistics_in_windows_and_of_blank_thumbnails() -> None:
    check_statistics_in_windows(variant("kin"))
    check_blank_thumbnails(variant("9 blocks"))


def test_the_sample_is_the_published_network_of_9_blocks() -> None:
    network = METHOD.build(METHOD.sample(0), Styling())
    assert (network.halo, network.stride, len(network.norms)) == (84, 4, 23)
    assert METHOD.build(METHOD.sample(1), Styling()).weights_hash != network.weights_hash

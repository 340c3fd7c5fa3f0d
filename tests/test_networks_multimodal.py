"""Multimodal transfer: the published layout of its three subnets, written out a second time, and the laws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, instance_norm, interpolate, pad, relu

from tests.law_support import (
    check_blank_thumbnails,
    check_freezing,
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
from urst_tiles.networks.multimodal import METHOD
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.weight_files import WeightFiles

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]

LISTED = {"style": (108, 1_476_967), "enhance": (78, 7_878_915), "refine": (46, 1_080_963)}
"""Tensors and elements of each published file."""


class Shaper:
    """Names and shapes of one file. ``own``: norms that the authors wrote themselves have .scale and .shift, (C,)."""

    def __init__(self, *, own: bool = False) -> None:
        self.found: Shapes = {}
        self.own = own

    def conv(self, name: str, outputs: int, inputs: int, kernel: int = 3) -> None:
        self.found[f"{name}.conv2d.weight"] = (outputs, inputs, kernel, kernel)
        self.found[f"{name}.conv2d.bias"] = (outputs,)

    def norm(self, name: str, channels: int, *, own: bool = False) -> None:
        parts = ("scale", "shift") if own and self.own else ("weight", "bias")
        for part in parts:
            self.found[f"{name}.{part}"] = (channels,) if self.own else (1, channels, 1, 1)

    def residual(self, name: str, channels: int) -> None:
        for i in (1, 2):
            self.conv(f"{name}.conv{i}", channels, channels)
            self.norm(f"{name}.in{i}", channels)


def style_shapes(a: int, *, own: bool = False) -> Shapes:
    shaper = Shaper(own=own)
    shaper.found |= {"togray.weight": (1, 3, 1, 1), "togray.bias": (1,)}
    for branch, inputs in (("rgb", 3), ("l", 1)):
        for i, (before, after, kernel) in enumerate(((inputs, a, 9), (a, 2 * a, 3), (2 * a, 4 * a, 3)), 1):
            shaper.conv(f"{branch}_conv{i}", after, before, kernel)
            shaper.norm(f"{branch}_in{i}", after, own=True)
        for i in (1, 2, 3):
            shaper.residual(f"{branch}_res{i}", 4 * a)
    for i in (4, 5, 6):
        shaper.residual(f"res{i}", 8 * a)
    for i, (before, after) in enumerate(((8 * a, 4 * a), (4 * a, 2 * a)), 1):
        shaper.conv(f"rezconv{i}", after, before)
        shaper.norm(f"in{i + 3}", after, own=True)
    shaper.conv("rezconv3", 3, 2 * a)
    return shaper.found


def later_shapes(a: int, halvings: int, blocks: int, last: int) -> Shapes:
    """Of the enhance subnet (3 halvings, 6 blocks) and of the refine subnet (2, 3)."""
    shaper = Shaper()
    widths = [3] + [a * 2**i for i in range(halvings + 1)]
    for i in range(halvings + 1):
        shaper.conv(f"conv{i + 1}", widths[i + 1], widths[i], 9 if i == 0 else 3)
        shaper.norm(f"in{i + 1}", widths[i + 1])
    for i in range(blocks):
        shaper.residual(f"res{i + 1}", widths[-1])
    for i in range(halvings):
        shaper.conv(f"rezconv{i + 1}", widths[-2 - i], widths[-1 - i])
        shaper.norm(f"in{halvings + 2 + i}", widths[-2 - i])
    shaper.conv(f"rezconv{halvings + 1}", 3, a, last)
    return shaper.found


def shapes(a: int, *, own: bool = False) -> dict[str, Shapes]:
    """Of all three; ``a`` is 16 as published."""
    return {
        "style": style_shapes(a, own=own),
        "enhance": later_shapes(2 * a, 3, 6, 9),
        "refine": later_shapes(2 * a, 2, 3, 3),
    }


def published(*, own: bool = False) -> dict[str, State]:
    """Random weights of a narrow network, as the three files hold them."""
    generator = torch.Generator().manual_seed(0)
    states: dict[str, State] = {}
    for subnet, found in shapes(2, own=own).items():
        state: State = {}
        for name, shape in found.items():
            value = torch.randn(shape, generator=generator)
            if len(shape) == 4 and shape[1] * shape[2] > 1 and shape[0] > 1:
                value *= (2 / torch.Size(shape[1:]).numel()) ** 0.5
            elif name.endswith((".weight", ".scale")):
                value = 0.5 + torch.rand(shape, generator=generator)
            state[name] = value if len(shape) == 4 else 0.3 * value
        states[subnet] = state
    for subnet, last in (("style", "rezconv3"), ("enhance", "rezconv4")):
        states[subnet][f"{last}.conv2d.weight"] *= 10  # so that the clamps have something to do
    states["style"]["togray.weight"] = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return states


class Reference:
    """One subnet's published forward pass from its file's own names, in ImageNet's range and float64."""

    def __init__(self, state: State) -> None:
        self.state = {
            name.replace(".scale", ".weight").replace(".shift", ".bias"): value.double()
            for name, value in state.items()
        }

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.conv2d.weight"], self.state[f"{name}.conv2d.bias"]
        return conv2d(pad(x, (weight.shape[-1] // 2,) * 4, mode="reflect"), weight, bias, stride=stride)

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        weight, bias = self.state[f"{name}.weight"].flatten(), self.state[f"{name}.bias"].flatten()
        return instance_norm(x, weight=weight, bias=bias, eps=eps)

    def residual(self, name: str, x: Tensor) -> Tensor:
        y = relu(self.norm(f"{name}.in1", self.conv(f"{name}.conv1", x)))
        return self.norm(f"{name}.in2", self.conv(f"{name}.conv2", y)) + x

    def up(self, name: str, x: Tensor) -> Tensor:
        return self.conv(name, interpolate(x, scale_factor=2, mode="nearest"))

    @staticmethod
    def clamped(x: Tensor) -> Tensor:
        """To the range of pictures, with red's own deviation."""
        return torch.minimum(torch.maximum(x, (0 - MEAN) / STD), (1 - MEAN) / STD)

    def branch(self, name: str, x: Tensor) -> Tensor:
        for i, stride in ((1, 1), (2, 2), (3, 2)):
            x = relu(self.norm(f"{name}_in{i}", self.conv(f"{name}_conv{i}", x, stride), 1e-9))
        for i in (1, 2, 3):
            x = self.residual(f"{name}_res{i}", x)
        return x

    def style(self, x: Tensor) -> Tensor:
        grey = conv2d(x, self.state["togray.weight"], self.state["togray.bias"])
        y = torch.cat((self.branch("rgb", x), self.branch("l", grey)), 1)
        for i in (4, 5, 6):
            y = self.residual(f"res{i}", y)
        y = relu(self.norm("in4", self.up("rezconv1", y), 1e-9))
        y = relu(self.norm("in5", self.up("rezconv2", y), 1e-9))
        return self.clamped(self.conv("rezconv3", y))

    def enhance(self, x: Tensor) -> Tensor:
        y = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        for i in (1, 2, 3, 4):
            y = relu(self.norm(f"in{i}", self.conv(f"conv{i}", y, 1 if i == 1 else 2)))
        for i in range(1, 7):
            y = self.residual(f"res{i}", y)
        for i in (1, 2, 3):
            y = relu(self.norm(f"in{i + 4}", self.up(f"rezconv{i}", y)))
        return self.clamped(self.conv("rezconv4", y))

    def refine(self, x: Tensor) -> Tensor:
        y = x
        for i in (1, 2, 3):
            y = relu(self.norm(f"in{i}", self.conv(f"conv{i}", y, 1 if i == 1 else 2)))
        for i in (1, 2, 3):
            y = self.residual(f"res{i}", y)
        for i in (1, 2):
            y = relu(self.norm(f"in{i + 3}", self.up(f"rezconv{i}", y)))
        return self.clamped(self.conv("rezconv3", y) + x)


def folder(states: dict[str, State], at: Path) -> WeightFiles:
    for subnet, state in states.items():
        torch.save(state, at / f"{subnet}_subnet_mosaic.pth")
    return WeightFiles.of(at)


def sample(seed: int = 0) -> StyleNetwork:
    return METHOD.build(METHOD.sample(seed), Styling())


@pytest.mark.parametrize("own", [False, True])
def test_the_network_is_the_published_one_and_half_its_size(own: bool, tmp_path: Path) -> None:
    states = published(own=own)
    network = METHOD.build(METHOD.read(folder(states, tmp_path)), Styling())
    image = tensor(waves(36, 44), torch.float64)
    with torch.inference_mode():
        strokes = Reference(states["style"]).style((image - MEAN) / STD)
        larger = Reference(states["enhance"]).enhance(strokes)
        painted = Reference(states["refine"]).refine(larger) * STD + MEAN
        expected = avg_pool2d(painted, 2)
        exact = in_float64(network).module
        # The deviations and means of the value ranges are float32 in a network that is float32.
        assert largest_difference(exact(image), expected) < 1e-5
    for picture in (strokes, larger):  # both ends of every channel are clamped somewhere, red's too
        levels = picture * STD + MEAN
        assert levels.amin(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
        assert levels.amax(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert painted.shape[-2:] == (72, 88)
    assert expected.std() > 0.1


def test_published_names_and_shapes_are_those_of_the_listing() -> None:
    for own in (False, True):
        for subnet, found in shapes(16, own=own).items():
            counted = len(found), sum(torch.Size(shape).numel() for shape in found.values())
            assert counted == LISTED[subnet]
    assert {"in4.scale", "rgb_in1.shift", "l_in3.scale"} < shapes(16, own=True)["style"].keys()
    assert "res4.in1.weight" in shapes(16, own=True)["style"]


@pytest.mark.parametrize("own", [False, True])
def test_published_shapes_load(own: bool, tmp_path: Path) -> None:
    for subnet, found in shapes(16, own=own).items():
        state = {f"module.{name}": torch.zeros(shape, dtype=torch.float16) for name, shape in found.items()}
        save_file(state, tmp_path / f"{subnet}_subnet_still_life.safetensors")
    network = METHOD.build(METHOD.read(WeightFiles.of(tmp_path)), Styling())
    assert (network.halo, network.stride, len(network.norms)) == (140, 4, 56)
    assert network.module.get_submodule("enhance.layers.4.first.conv").out_channels == 256
    small = [layer.eps for layer in network.module.modules() if isinstance(layer, nn.InstanceNorm2d)]
    assert (small.count(1e-9), small.count(1e-5)) == (8, 48)


def test_three_files_in_any_order_or_one_with_all_are_the_same(tmp_path: Path) -> None:
    states = published(own=True)
    one = METHOD.read(folder(states, tmp_path))
    paths = [tmp_path / f"{subnet}_subnet_mosaic.pth" for subnet in ("refine", "style", "enhance")]
    together = {f"{subnet}_subnet.{name}": value for subnet, state in states.items() for name, value in state.items()}
    again = METHOD.read(saved(one, tmp_path / "ours.pth"))
    for other in (METHOD.read(WeightFiles.of(paths)), METHOD.read(saved(together, tmp_path / "mt.pth")), again):
        assert other.keys() == one.keys()
        assert all(torch.equal(other[name], one[name]) for name in one)


@pytest.mark.parametrize("name", ["style_subnet_scream.pt", "style_subnet_scream.pth"])
def test_pickled_modules_are_refused_with_the_line_that_converts_them(name: str, tmp_path: Path) -> None:
    for subnet in ("style", "enhance", "refine"):
        torch.save(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / name.replace("style", subnet))
    with pytest.raises(NetworkError, match="it was not executed") as caught:
        METHOD.read(WeightFiles.of(tmp_path))
    text = str(caught.value)
    assert "\n" not in text
    command = re.search(r'python -c "(.*?)" ', text)
    assert command is not None
    # The line does what it says, run beside the file: its result is a state dict that is read without running code.
    converted = command[1].replace("'style_", f"'{tmp_path}/style_")
    exec(compile(converted, "converted", "exec"), {})
    [written] = [path for path in tmp_path.iterdir() if path.name.startswith("style") and path.name != name]
    assert set(torch.load(written, weights_only=True)) == {"0.weight", "0.bias"}
    with pytest.raises(NetworkError, match="style subnet of multimodal transfer, but togray"):
        METHOD.read(
            WeightFiles.of([written, *(tmp_path / name.replace("style", other) for other in ("enhance", "refine"))])
        )


def broken(subnet: str, change: State | str) -> dict[str, State]:
    states = published(own=True)
    if isinstance(change, str):
        del states[subnet][change]
    else:
        states[subnet] |= change
    return states


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (broken("style", "l_in2.shift"), r"style subnet of multimodal transfer, but l_in2\.bias is missing"),
        (broken("enhance", "rezconv4.conv2d.bias"), r"enhance subnet.*rezconv4\.conv2d\.bias is missing"),
        (broken("refine", {"in9.weight": torch.zeros(2)}), r"refine subnet.*in9\.weight is not part of it"),
        ({k: v for k, v in published().items() if k != "refine"}, "the refine subnet has no file"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(states: dict[str, State], says: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=says) as caught:
        METHOD.read(folder(states, tmp_path))
    assert "\n" not in str(caught.value)


def test_single_files_that_are_not_the_whole(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="one of the three subnets; give all three files"):
        METHOD.read(saved(published()["enhance"], tmp_path / "enhance_subnet.pth"))
    with pytest.raises(NetworkError, match="look like a MicroAST encoder"):
        METHOD.read(saved({"enc1.0.conv_layer.weight": torch.zeros(1)}, tmp_path / "other.pth"))
    with pytest.raises(NetworkError, match="of none of the three subnets"):
        METHOD.read(saved({"style_subnet.x": torch.zeros(1), "y": torch.zeros(1)}, tmp_path / "mt.pth"))


def test_a_folder_of_several_styles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refine_subnet_scream.pth").write_bytes(b"")
    with pytest.raises(NetworkError, match="refine subnet fits several files"):
        METHOD.read(folder(published(), tmp_path))


def test_published_files_beside_converted_ones_are_passed_over(tmp_path: Path) -> None:
    for subnet in ("style", "enhance", "refine"):
        torch.save(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / f"{subnet}_subnet_mosaic.pt")
    assert len(METHOD.read(folder(published(), tmp_path))) == sum(tensors for tensors, _ in LISTED.values())


@pytest.mark.parametrize(
    "name", ["style.joined.3.conv.weight", "enhance.layers.0.norm.bias", "refine.layers.4.second.conv.weight"]
)
def test_shapes_that_do_not_fit_together_are_refused(name: str) -> None:
    with pytest.raises(NetworkError, match="has shape"):
        METHOD.build(METHOD.sample(0) | {name: torch.zeros(5, 5, 5, 5)}, Styling())


def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight() -> None:
    network = sample()
    assert (network.halo, network.stride, len(network.norms)) == (140, 4, 56)
    check_tiling(network, height=21)
    check_tiling_in_float32(network)
    assert halo_seen(network) == 140


def test_law_5_frozen_equals_unfrozen() -> None:
    assert left_over(check_freezing(sample())) == []


def test_blank_thumbnails_give_finite_features() -> None:
    check_blank_thumbnails(sample())

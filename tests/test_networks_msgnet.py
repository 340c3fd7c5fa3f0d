"""MSG-Net: the published layouts, the network written out a second time, and the laws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, instance_norm, interpolate, pad, relu

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
from urst_tiles.networks.msgnet import METHOD, gram_matrix
from urst_tiles.networks.styling import StyleImage, Styling

State = dict[str, Tensor]


def style(seed: int = 3, weight: float = 1.0) -> StyleImage:
    return StyleImage(waves(48, 48, seed=seed), weight)


def shapes(ngf: int, first: int, small: int, *, norms: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file; with 128, 64, 32 the file itself."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def norm(name: str, channels: int) -> None:
        if norms:
            found[f"{name}.weight"] = found[f"{name}.bias"] = (1, channels, 1, 1)

    def block(name: str, inputs: int, middle: int, shortcut: str = "") -> int:
        if shortcut:
            conv(f"{name}.{shortcut}", 4 * middle, inputs, 1)
        norm(f"{name}.conv_block.0", inputs)
        conv(f"{name}.conv_block.2", middle, inputs, 1)
        norm(f"{name}.conv_block.3", middle)
        conv(f"{name}.conv_block.5.conv2d", middle, middle, 3)
        norm(f"{name}.conv_block.6", middle)
        conv(f"{name}.conv_block.8", 4 * middle, middle, 1)
        return 4 * middle

    for half in ("model1", "model.0"):
        conv(f"{half}.0.conv2d", first, 3, 7)
        norm(f"{half}.1", first)
        wide = block(f"{half}.4", block(f"{half}.3", first, small, "residual_layer"), ngf, "residual_layer")
    found["ins.weight"] = found["model.1.weight"] = (1, wide, wide)
    for i in range(2, 8):
        block(f"model.{i}", wide, ngf)
    last = block("model.9", block("model.8", wide, small, "residual_layer.conv2d"), small // 2, "residual_layer.conv2d")
    norm("model.10", last)
    conv("model.12.conv2d", 3, last, 7)
    return found


def published(*, norms: bool = False, seed: int = 0) -> State:
    """Random weights of a narrow network as a file holds them, both copies the same."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes(4, 6, 4, norms=norms).items():
        twin = name.replace("model.0.", "model1.", 1).replace("model.1.weight", "ins.weight")
        fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 and shape[0] > 1 else 1
        value = torch.randn(shape, generator=generator) / fan_in**0.5
        state[name] = state.get(twin, value + 1.0 if ".weight" in name and shape[0] == 1 else value)
    state["ins.weight"] = state["model.1.weight"] = torch.randn(1, 16, 16, generator=generator) * 0.02
    state["model.12.conv2d.weight"] *= 20
    state["model.12.conv2d.bias"] += 127
    return state


def reference(state: State, content: Tensor, target: Tensor) -> Tensor:
    """The published forward pass from the file's own names. (1, 3, H, W) RGB in [0, 1] → the same."""
    state = {name: value.double() for name, value in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        scale, shift = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        return instance_norm(x, weight=None if scale is None else scale.flatten(),
                             bias=None if shift is None else shift.flatten())  # fmt: skip

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.weight"].shape[-1] // 2
        x = pad(x, (kernel,) * 4, mode="reflect") if kernel else x
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=stride)

    def block(name: str, x: Tensor, shortcut: str = "", stride: int = 1, up: int = 1) -> Tensor:
        def larger(y: Tensor) -> Tensor:
            return interpolate(y, scale_factor=up, mode="nearest")

        rest = conv(f"{name}.{shortcut}", larger(x), stride) if shortcut else x
        y = conv(f"{name}.conv_block.2", relu(norm(f"{name}.conv_block.0", x)))
        y = conv(f"{name}.conv_block.5.conv2d", larger(relu(norm(f"{name}.conv_block.3", y))), stride)
        return rest + conv(f"{name}.conv_block.8", relu(norm(f"{name}.conv_block.6", y)))

    def encode(image: Tensor) -> Tensor:
        y = relu(norm("model.0.1", conv("model.0.0.conv2d", image.flip(1) * 255)))
        return block("model.0.4", block("model.0.3", y, "residual_layer", 2), "residual_layer", 2)

    features = encode(target)
    _, channels, height, width = features.shape
    flat = features.view(1, channels, height * width)
    gram = flat.bmm(flat.transpose(1, 2)) / (channels * height * width)
    x = encode(content)
    tuned = torch.bmm(torch.bmm(state["ins.weight"], gram).transpose(1, 2), x.view(1, channels, -1))
    x = tuned.view_as(x)
    for i in range(2, 8):
        x = block(f"model.{i}", x)
    for i in (8, 9):
        x = block(f"model.{i}", x, "residual_layer.conv2d", up=2)
    return conv("model.12.conv2d", relu(norm("model.10", x))).flip(1) / 255


def sample(seed: int = 0, *styles: StyleImage) -> StyleNetwork:
    return METHOD.build(METHOD.sample(seed), Styling(styles or (style(),)))


@pytest.mark.parametrize("norms", [False, True])
def test_the_network_is_the_published_one(norms: bool, tmp_path: Path) -> None:
    state = published(norms=norms)
    network = METHOD.build(METHOD.read(saved(state, tmp_path / "21styles.model")), Styling((style(),)))
    image = tensor(waves(44, 52, seed=1), torch.float64)
    with torch.inference_mode():
        expected = reference(state, image, style().tensor.double())
        # Its Inspiration layer is made in float32, as the rest of the network is before it is asked to be exact.
        difference = largest_difference(in_float64(network).module(image), expected)
    assert 0.02 < expected.std() < 1
    assert difference < 2e-5
    assert largest_difference(in_float64(network).module(image.flip(1)), expected) > 0.01


def test_published_names_and_shapes_are_those_of_the_listing() -> None:
    """Counts of tensors and of elements, as published."""
    for norms, tensors, elements in ((False, 92, 2_977_827), (True, 170, 2_990_947)):
        found = shapes(128, 64, 32, norms=norms)
        assert len(found) == tensors
        assert sum(torch.Size(shape).numel() for shape in found.values()) == elements


@pytest.mark.parametrize("norms", [False, True])
def test_published_shapes_load(norms: bool, tmp_path: Path) -> None:
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes(128, 64, 32, norms=norms).items()}
    state |= {"model1.1.running_mean": torch.zeros(64), "model1.1.running_var": torch.ones(64)}
    files = saved({f"module.{name}": value for name, value in state.items()}, tmp_path / "21styles.model")
    weights = METHOD.read(files)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    small = StyleImage(waves(32, 32), 1.0)
    network = METHOD.build(weights, Styling((small,)))
    assert network.module.get_submodule("decoder.up2.expand").out_channels == 64
    assert (network.halo, network.stride, len(network.norms)) == (40, 4, 32)


def test_one_copy_of_the_weights_is_enough(tmp_path: Path) -> None:
    whole = METHOD.read(saved(published(), tmp_path / "whole.pth"))
    for prefixes in (("model1.", "ins."), ("model.0.", "model.1.")):
        state = {name: value for name, value in published().items() if not name.startswith(prefixes)}
        found = METHOD.read(saved(state, tmp_path / "part.pth"))
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_what_was_read_is_read_again_and_built(tmp_path: Path) -> None:
    once = METHOD.read(saved(published(norms=True), tmp_path / "file.pth"))
    twice = METHOD.read(saved(once, tmp_path / "again.pth"))
    one, other = (METHOD.build(state, Styling((style(),))) for state in (once, twice))
    assert one.weights_hash == other.weights_hash


def without(name: str) -> State:
    return {other: value for other, value in published().items() if other != name}


BROKEN: dict[str, tuple[State, str]] = {
    "missing": (without("model.4.conv_block.2.bias"), r"MSG-Net, but model\.4\.conv_block\.2\.bias is missing"),
    "no inspiration": ({k: v for k, v in published().items() if v.ndim != 3}, r"ins\.weight is missing"),
    "left over": (published() | {"extra.weight": torch.zeros(2)}, r"extra\.weight is not part of it"),
    "copies differ": (published() | {"model1.0.conv2d.bias": torch.zeros(6)}, "two copies of the same weights"),
    "some norms": (
        published() | {"model.10.weight": torch.ones(1, 8, 1, 1), "model.10.bias": torch.ones(1, 8, 1, 1)},
        r"model1\.1\.weight, model1\.1\.bias and \d+ more are missing",
    ),
    "another method": ({"res1.conv1.conv2d.weight": torch.zeros(1), "conv1.conv2d.weight": torch.zeros(1)}, "Johnson"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_said_in_one_line(kind: str, tmp_path: Path) -> None:
    state, says = BROKEN[kind]
    with pytest.raises(NetworkError, match=says) as caught:
        METHOD.read(saved(state, tmp_path / "some.pth"))
    assert str(caught.value).startswith(str(tmp_path / "some.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("encoder.down1.reduce.weight", (4, 8, 3, 3), r"down1\.reduce\.weight has shape \(4, 8, 3, 3\)"),
        ("encoder.conv.weight", (8, 3), "no convolution's"),
        ("decoder.blocks.2.norm1.weight", (5,), r"blocks\.2\.norm1\.weight has shape \(5,\)"),
        ("inspiration.weight", (16, 15), r"inspiration\.weight has shape \(16, 15\)"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(NetworkError, match=says):
        METHOD.build(METHOD.sample(0) | {name: torch.zeros(shape)}, Styling((style(),)))


def test_files_without_a_layer_are_refused_on_building() -> None:
    state = METHOD.sample(0)
    for name in ("encoder.conv.weight", "inspiration.weight", "decoder.up1.norm2.bias"):
        with pytest.raises(NetworkError, match="missing"):
            METHOD.build({other: value for other, value in state.items() if other != name}, Styling((style(),)))


def test_the_gram_matrix_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]], [[0.0, 4.0]]]])
    expected = torch.tensor([[5.0, 1.0, 8.0], [1.0, 10.0, -4.0], [8.0, -4.0, 16.0]]).double() / 6
    assert largest_difference(gram_matrix(features), expected) < 1e-12


def test_styles_are_mixed_in_their_gram_matrices() -> None:
    def tuned(*styles: StyleImage) -> Tensor:
        return sample(0, *styles).module.state_dict()["inspiration.weight"]  # type: ignore[no-any-return]

    one, other, mixed = tuned(style(1)), tuned(style(2)), tuned(style(1, 0.25), style(2, 0.75))
    size = float(one.abs().max())
    assert largest_difference(0.25 * one + 0.75 * other, mixed) < 1e-5 * size
    assert largest_difference(one, other) > 1e-3 * size
    assert largest_difference(tuned(style(1, 0.5), style(1, 0.5)), one) < 1e-6 * size


def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight() -> None:
    network = sample()
    assert (network.halo, network.stride) == (40, 4)
    check_tiling(network)
    check_tiling_in_float32(network)
    assert halo_seen(network) == 40


def test_law_5_frozen_equals_unfrozen() -> None:
    frozen = check_freezing(sample(1))
    # The norms before activations whose input the shortcut reads too, and the one behind the last sum, have no
    # convolution to fold into; the value ranges have.
    assert len(left_over(frozen)) == 11
    assert all(name.endswith(".norm1") or name == "module.decoder.norm" for name in left_over(frozen))


def test_statistics_in_windows_and_of_blank_thumbnails() -> None:
    check_statistics_in_windows(sample())
    check_blank_thumbnails(sample())

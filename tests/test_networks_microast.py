"""MicroAST: plain calls on published names give the same picture; laws 3 to 5; what does not fit is said."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from tests.networks_support import (
    in_float64,
    largest_difference,
    needs_shared,
    noise,
    photo,
    tensor,
    tiled,
    weights,
)
from urst_tiles.errors import NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.microast import METHOD
from urst_tiles.networks.microast_layers import Residual, modulated
from urst_tiles.networks.normalization import ChannelAffine, is_norm
from urst_tiles.networks.styling import StyleImage, Styling, read_styles
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics

State = dict[str, Tensor]

PARTS = ("content_encoder", "style_encoder", "modulator", "decoder")


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise on slow waves."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 60 * np.sin(x / (9 + seed))[..., None] * np.cos(y / 13)[..., None] * np.array([1.0, -0.6, 0.4])
    pixels: NDArray[np.uint8] = (
        (128 + waves + 0.4 * (noise(height, width, seed=seed) - 128.0)).clip(0, 255).astype(np.uint8)
    )
    return pixels


STYLE = picture(61, 61, seed=3)


def styled(*styles: NDArray[np.uint8], alpha: float = 1.0) -> Styling:
    return Styling(tuple(StyleImage(style, 1 / len(styles)) for style in styles), alpha)


def network(styling: Styling | None = None, seed: int = 2) -> StyleNetwork:
    return METHOD.build(METHOD.sample(seed), styling or styled(STYLE))


# The published network once more, as plain functional calls on the names of its files.


def layer(state: State, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    weight, bias = (state[f"{name}.conv_layer.{part}"].double() for part in ("weight", "bias"))
    width = weight.shape[-1] // 2
    x = functional.pad(x, (width,) * 4, mode="reflect") if width else x
    return functional.conv2d(x, weight, bias, stride, groups=x.shape[1] // weight.shape[1])


def residual(state: State, name: str, x: Tensor) -> Tensor:
    return x + layer(state, f"{name}.conv2", layer(state, f"{name}.conv1", x).relu())


def encode(state: State, part: str, x: Tensor) -> tuple[Tensor, Tensor]:
    for index, stride in ((0, 1), (2, 2), (4, 1), (6, 2), (8, 1)):
        x = layer(state, f"{part}.enc1.{index}", x, stride=stride).relu()
    first = residual(state, f"{part}.enc1.10", x)
    return first, residual(state, f"{part}.enc2.0", first)


def adain(content: Tensor, style: Tensor, alpha: float) -> Tensor:
    """Unbiased variances, 1e-5 added to them."""

    def spread(x: Tensor) -> Tensor:
        return (x.var(dim=(2, 3), keepdim=True, unbiased=True) + 1e-5).sqrt()

    middle = content.mean(dim=(2, 3), keepdim=True)
    result = spread(style) * (content - middle) / spread(content) + style.mean(dim=(2, 3), keepdim=True)
    return alpha * result + (1 - alpha) * content


def filtered(state: State, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A residual block whose convolutions are each weight · conv(x) + bias · x."""
    inner = (weight * layer(state, f"{name}.conv1", x) + bias * x).relu()
    return x + weight * layer(state, f"{name}.conv2", inner) + bias * inner


def paint(state: State, content: Tensor, style: Tensor, alpha: float) -> Tensor:
    styles = encode(state, "style_encoder", style)
    signals = [
        [
            layer(state, f"modulator.{kind}{depth}.0", features).mean(dim=(2, 3), keepdim=True)
            for kind in ("weight", "bias")
        ]
        for depth, features in enumerate(styles, 1)
    ]
    x = encode(state, "content_encoder", content)[1]
    x = filtered(state, "decoder.dec1", adain(x, styles[1], alpha), *signals[1])
    x = filtered(state, "decoder.dec2", adain(x, styles[0], alpha), *signals[0])
    for index in (1, 6):
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = layer(state, f"decoder.dec3.{index}", x).relu()
        x = layer(state, f"decoder.dec3.{index + 2}", x).relu()
    return layer(state, "decoder.dec3.10", x)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
def test_when_the_thumbnail_is_the_image_the_published_equations_agree(alpha: float) -> None:
    state, pixels = METHOD.sample(2), picture(48, 64)
    net = in_float64(METHOD.build(state, styled(STYLE, alpha=alpha)))
    image = tensor(pixels, torch.float64)
    expected = paint(state, image, tensor(STYLE, torch.float64), alpha)
    with torch.inference_mode():
        # The style's signals were taken in float32.
        assert largest_difference(net.freeze(collect_statistics(net, pixels)).module(image), expected) < 2e-5
        assert largest_difference(net.module(image), expected) < 2e-5
    assert expected.std(dim=(2, 3)).min() > 0.03


def test_alpha_is_of_adain_and_not_of_the_filters() -> None:
    """As published: with alpha 0 the filters still are the style's, and that is all that is left of it."""
    state, other = METHOD.sample(2), picture(50, 50, seed=6)
    one, two = (METHOD.build(state, styled(style, alpha=0.0)).module for style in (STYLE, other))
    image = tensor(picture(32, 32))
    with torch.inference_mode():
        assert largest_difference(one(image), two(image)) > 1e-4
        for norm in ("norm1", "norm2"):
            x = torch.randn(1, 16, 4, 4)
            assert torch.equal(one.get_submodule(norm)(x), x)


def test_modulated_filters_are_one_convolution() -> None:
    torch.manual_seed(0)
    block, weight, bias, x = Residual(3), torch.randn(3), torch.randn(3), torch.randn(1, 3, 5, 6).double()
    state = {f"block.{name}": value.detach() for name, value in block.state_dict().items()}
    expected = filtered(state, "block", x, weight.double()[:, None, None], bias.double()[:, None, None])
    with torch.inference_mode():
        assert largest_difference(modulated(block, weight, bias).double()(x), expected) < 1e-6


def test_stride_and_halo() -> None:
    net = network()
    assert (net.stride, net.halo, net.norms) == (4, 52, ("norm2", "norm1"))
    assert net.scale == 1


def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight() -> None:
    net, pixels = in_float64(network()), picture(131, 167)
    frozen, image = net.freeze(collect_statistics(net, picture(80, 64, seed=1))), tensor(pixels, torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=28), whole) < 1e-12
        assert largest_difference(tiled(frozen, image, core=28, halo=net.halo - net.stride), whole) > 1e-6
        single = network().freeze(collect_statistics(net, pixels))
        assert largest_difference(tiled(single, image.float(), core=28), single(image.float())) < 1e-4
    assert whole.std(dim=(2, 3)).min() > 0.03


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_law_5_frozen_equals_unfrozen(alpha: float) -> None:
    """AdaIN stays a scale and a shift here: what it gives is read by a convolution and by the sum behind it."""
    net = network(styled(STYLE, alpha=alpha))
    statistics, image = collect_statistics(net, picture(72, 56, seed=1)), tensor(picture(64, 48))
    exact = in_float64(net)
    with torch.inference_mode():
        precise = exact.normalise_with(statistics).module(image.double())
        assert largest_difference(exact.freeze(statistics).module(image.double()), precise) < 1e-9
        frozen = net.freeze(statistics)
        assert largest_difference(frozen.module(image), net.normalise_with(statistics).module(image)) < 1e-4
    assert not [layer for layer in frozen.modules() if is_norm(layer)]
    assert sum(isinstance(layer, ChannelAffine) for layer in frozen.modules()) == 2
    # Nothing but residual sums between the layers: the filters' modulation is in the weights.
    assert isinstance(frozen.module, GraphModule)
    called = {node.target for node in frozen.module.graph.nodes if node.op == "call_function"}
    assert called <= {operator.add, torch.relu_}


def test_statistics_in_windows_are_those_in_one_piece() -> None:
    net = in_float64(network())
    pixels = picture(101, 400)
    whole, parts = collect_statistics(net, pixels), collect_statistics(net, pixels, max_pixels=2000)
    for name in net.norms:
        assert parts[name].count == whole[name].count
        assert np.allclose(parts[name].mean, whole[name].mean, rtol=0, atol=1e-12)
        assert np.allclose(parts[name].m2, whole[name].m2, rtol=1e-9)


def test_a_blank_thumbnail_gives_finite_pixels() -> None:
    net = network()
    frozen = net.freeze(collect_statistics(net, np.full((64, 64, 3), 200, np.uint8)))
    with torch.inference_mode():
        assert bool(frozen.module(tensor(picture(32, 32))).isfinite().all())


def test_styles_are_mixed_by_their_signals() -> None:
    other = picture(40, 40, seed=5)
    choices = [(STYLE,), (STYLE, STYLE), (STYLE, other), (other,)]
    modules = [network(styled(*styles)).module for styles in choices]
    for part in ("norm1.mean", "norm2.std", "dec1.conv1.conv_layer.weight", "dec2.conv2.conv_layer.bias"):
        one, twice, both, alone = (module.state_dict()[part] for module in modules)
        assert largest_difference(twice, one) < 1e-6
        assert largest_difference(both, (one + alone) / 2) < 1e-6
        assert largest_difference(one, alone) > 1e-4


# Published files

ENCODER = {
    "enc1.0": (16, 3, 9, 9), "enc1.2": (32, 1, 3, 3), "enc1.4": (32, 32, 1, 1), "enc1.6": (64, 1, 3, 3),
    "enc1.8": (64, 64, 1, 1), "enc1.10.conv1": (64, 64, 3, 3), "enc1.10.conv2": (64, 64, 3, 3),
    "enc2.0.conv1": (64, 64, 3, 3), "enc2.0.conv2": (64, 64, 3, 3),
}  # fmt: skip
MODULATOR = {f"{kind}{depth}.0": (64, 1, 3, 3) for kind in ("weight", "bias") for depth in (1, 2)}
DECODER = {
    "dec1.conv1": (64, 64, 3, 3), "dec1.conv2": (64, 64, 3, 3), "dec2.conv1": (64, 64, 3, 3),
    "dec2.conv2": (64, 64, 3, 3), "dec3.1": (32, 2, 3, 3), "dec3.3": (32, 32, 1, 1), "dec3.6": (16, 2, 3, 3),
    "dec3.8": (16, 16, 1, 1), "dec3.10": (3, 16, 9, 9),
}  # fmt: skip


def listed() -> dict[str, State]:
    """As listed with the published code; no memory behind the values."""
    return {
        part: {
            f"{name}.conv_layer.{kind}": torch.zeros(1).expand(shape if kind == "weight" else shape[:1])
            for name, shape in layers.items()
            for kind in ("weight", "bias")
        }
        for part, layers in zip(PARTS, (ENCODER, ENCODER, MODULATOR, DECODER), strict=True)
    }


def save(folder: Path, files: dict[str, State]) -> WeightFiles:
    folder.mkdir(exist_ok=True)
    for part, state in files.items():
        torch.save(state, folder / f"{part}_iter_160000.pth.tar")
    return WeightFiles.of(folder)


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    state = METHOD.read(save(tmp_path, listed()))
    assert len(state) == 18 + 18 + 8 + 18
    assert sum(value.numel() for value in state.values()) == 2 * 157_792 + 2_560 + 153_843
    assert state["style_encoder.enc1.2.conv_layer.weight"].shape == (32, 1, 3, 3)
    marked = {part: {f"module.{n}": t.half() for n, t in file.items()} for part, file in listed().items()}
    again = METHOD.read(save(tmp_path / "marked", marked))
    assert again.keys() == state.keys()
    assert {value.dtype for value in again.values()} == {torch.float32}


def test_narrow_files_are_read_as_they_are(tmp_path: Path) -> None:
    state = METHOD.sample(1)
    files = {
        part: {n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")} for part in PARTS
    }
    found = METHOD.read(save(tmp_path, files))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    files = listed()
    head = "enc1.0.conv_layer.weight"
    less = {name: value for name, value in files["content_encoder"].items() if name != head}

    def changed(part: str, **tensors: Tensor) -> dict[str, State]:
        return {**files, part: {**files[part], **{n.replace("__", "."): t for n, t in tensors.items()}}}

    cases = {
        r"1 of 62 tensors are missing \(content_encoder\.enc1\.0\.conv_layer\.weight\)": {
            **files, "content_encoder": less},
        r"1 are not part of it \(decoder\.more\.weight\)": changed("decoder", more__weight=torch.zeros(1)),
        r"8 of 62 tensors .* 18 are not part of it .*; the modulator looks like a MicroAST decoder$": {
            **files, "modulator": files["decoder"]},
        r"the decoder looks like a decoder of AdaIN or WCT": {**files, "decoder": {"1.weight": torch.zeros(3)}},
        r"decoder\.dec3\.1\.conv_layer\.weight has shape \(32, 1, 3, 3\) .* widths \(16, 32, 64\) has \(32, 2, 3, 3\)":
            changed("decoder", dec3__1__conv_layer__weight=torch.zeros(32, 1, 3, 3)),
        r"widths \(16, 30, 64\)": changed("content_encoder", enc1__2__conv_layer__weight=torch.zeros(30, 1, 3, 3)),
    }  # fmt: skip
    for says, wrong in cases.items():
        with pytest.raises(NetworkError, match=says) as caught:
            METHOD.read(save(tmp_path, wrong))
        assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    files = listed()
    del files["style_encoder"]
    with pytest.raises(NetworkError, match="the style_encoder has no file"):
        METHOD.read(save(tmp_path, files))


def test_what_was_read_is_built_from_as_it_is() -> None:
    state = METHOD.sample(0)
    name = "modulator.bias2.0.conv_layer.bias"
    with pytest.raises(NetworkError, match="1 of 62 tensors are missing"):
        METHOD.build({key: value for key, value in state.items() if key != name}, styled(STYLE))


@needs_shared
def test_published_weights_paint_a_photo_in_the_paintings_colours() -> None:
    state = METHOD.read(WeightFiles.of(weights("microast")))
    styles = read_styles(weights("microast").parents[1] / "images" / "styles" / "starry_night.jpg", 128)
    net, pixels = METHOD.build(state, Styling(styles)), photo(121, 161)
    assert (net.stride, net.halo, len(net.norms)) == (4, 52, 2)
    statistics, image = collect_statistics(net, pixels), tensor(pixels)
    frozen = net.freeze(statistics)
    exact, small = in_float64(net), tensor(pixels[:120, :160], torch.float64)
    with torch.inference_mode():
        painted = frozen(image)
        assert largest_difference(tiled(frozen, image, core=40), painted) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(image), painted) < 1e-4
        # Oracle: the published network, each AdaIN with the image's own statistics.
        own = exact.freeze(collect_statistics(exact, pixels[:120, :160]))
        expected = paint(state, small, styles[0].tensor.double(), 1.0)
        assert largest_difference(own.module(small), expected) < 1e-4
    wanted, before, after = (x.mean(dim=(2, 3)) for x in (styles[0].tensor, image, painted))
    assert (after - wanted).abs().sum() < 0.5 * (before - wanted).abs().sum()
    assert painted.std() > 0.1
    assert sum(isinstance(layer, nn.Conv2d) for layer in frozen.modules()) == 9 + 9

"""LinearWCT: the paper's equations on published names give the same picture; two norms in a row; laws 3 to 5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
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
from urst_tiles.networks.linear_transform import LinearTransform, MatrixNetwork
from urst_tiles.networks.linear_wct import METHOD, random_linear_wct
from urst_tiles.networks.moments import Covariance, Moments
from urst_tiles.networks.normalization import ChannelAffine, is_norm
from urst_tiles.networks.styling import StyleImage, Styling
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics

State = dict[str, Tensor]

WIDTHS = {"r31": (3, 4, 4, 5, 6), "r41": (3, 4, 4, 5, 6, 6, 6, 6, 8)}
ENCODER = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)
DECODER = {"r31": (1, 5, 8, 12, 15), "r41": (1, 5, 8, 11, 14, 18, 21, 25, 28)}


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise on slow waves."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 60 * np.sin(x / (9 + seed))[..., None] * np.cos(y / 13)[..., None] * np.array([1.0, -0.6, 0.4])
    pixels: NDArray[np.uint8] = (
        (128 + waves + 0.4 * (noise(height, width, seed=seed) - 128.0)).clip(0, 255).astype(np.uint8)
    )
    return pixels


STYLE = picture(61, 61, seed=3)


def styled(*styles: NDArray[np.uint8]) -> Styling:
    return Styling(tuple(StyleImage(style, 1 / len(styles)) for style in styles))


def network(name: str = "r41", styling: Styling | None = None) -> StyleNetwork:
    return METHOD.build(random_linear_wct(WIDTHS[name], 0), styling or styled(STYLE))


def published(name: str, state: State) -> tuple[State, State, State]:
    """Encoder, decoder and transformation by published names: the decoder counts on where the encoder ends."""
    lower = {place: f"conv{i}" for i, place in enumerate(ENCODER[: len(WIDTHS[name]) + 1], 1)}
    upper = {place: f"conv{i}" for i, place in enumerate(DECODER[name], len(lower) + 1)}
    files: tuple[State, State, State] = ({}, {}, {})
    for full, value in state.items():
        part, _, rest = full.partition(".")
        place, _, kind = rest.rpartition(".")
        if part == "encoder":
            files[0][f"{lower[int(place)]}.{kind}"] = value
        elif part == "decoder":
            files[1][f"{upper[int(place)]}.{kind}"] = value
        else:
            files[2][full] = value
    return files


def convolve(state: State, name: str, x: Tensor, *, pad: str = "reflect") -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    if weight.shape[-1] == 3:
        x = functional.pad(x, (1, 1, 1, 1), mode=pad)
    return functional.conv2d(x, weight, bias)


def encode(state: State, x: Tensor) -> Tensor:
    x = convolve(state, "conv1", x)
    for number in range(2, len(state) // 2 + 1):
        if number in (4, 6, 10):
            x = functional.max_pool2d(x, 2)
        x = convolve(state, f"conv{number}", x).relu()
    return x


def decode(state: State, x: Tensor, ups: tuple[int, ...]) -> Tensor:
    *names, last = sorted({name.split(".")[0] for name in state}, key=lambda name: int(name[4:]))
    for name in names:
        x = convolve(state, name, x).relu()
        if int(name[4:]) in ups:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return convolve(state, last, x)


def matrix(state: State, net: str, features: Tensor) -> Tensor:
    """fc of the Gram matrix of three zero-padded convolutions, over the number of pixels."""
    x = features
    for layer in (0, 2, 4):
        x = convolve(state, f"{net}.convs.{layer}", x.relu() if layer else x, pad="constant")
    flat = x[0].flatten(1)
    gram = flat @ flat.T / flat.shape[1]
    out = functional.linear(gram.flatten(), state[f"{net}.fc.weight"].double(), state[f"{net}.fc.bias"].double())
    return out.reshape(gram.shape)


@pytest.mark.parametrize(("name", "ups"), [("r41", (11, 15, 17)), ("r31", (7, 9))])
def test_when_the_thumbnail_is_the_image_the_papers_equations_agree(name: str, ups: tuple[int, ...]) -> None:
    """Oracle: plain functional calls on published names; the style's side is odd, and pooling drops its last row."""
    state, pixels = random_linear_wct(WIDTHS[name], 0), picture(48, 64)
    encoder, decoder, rest = published(name, state)
    content, style = (encode(encoder, tensor(image, torch.float64)) for image in (pixels, STYLE))
    assert style.shape[-1] == {"r41": 7, "r31": 15}[name]
    mean = style.mean(dim=(2, 3), keepdim=True)
    centred = content - content.mean(dim=(2, 3), keepdim=True)
    compressed = convolve(rest, "compress", centred)
    transform = matrix(rest, "snet", style - mean) @ matrix(rest, "cnet", centred)
    transformed = (transform @ compressed[0].flatten(1)).reshape(compressed.shape)
    expected = decode(decoder, convolve(rest, "unzip", transformed) + mean, ups)
    net = in_float64(METHOD.build(state, styled(STYLE)))
    with torch.inference_mode():
        image = tensor(pixels, torch.float64)
        # The style's matrix and mean were taken in float32.
        assert largest_difference(net.freeze(collect_statistics(net, pixels)).module(image), expected) < 1e-5
        assert largest_difference(net.module(image), expected) < 1e-5
    assert expected.std(dim=(2, 3)).min() > 0.05
    assert largest_difference(transform, torch.eye(4)) > 0.1


@pytest.mark.parametrize(("name", "stride", "halo"), [("r31", 4, 24), ("r41", 8, 64)])
def test_stride_and_halo(name: str, stride: int, halo: int) -> None:
    net = network(name)
    assert (net.stride, net.halo, net.norms) == (stride, halo, ("centre", "transform"))
    assert net.scale == 1


@pytest.mark.parametrize(("name", "core"), [("r31", 28), ("r41", 40)])
def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight(name: str, core: int) -> None:
    net, pixels = in_float64(network(name)), picture(107, 149)
    frozen, image = net.freeze(collect_statistics(net, picture(80, 64, seed=1))), tensor(pixels, torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=core), whole) < 1e-12
        assert largest_difference(tiled(frozen, image, core=core, halo=net.halo - net.stride), whole) > 1e-6
        single = network(name).freeze(collect_statistics(net, pixels))
        assert largest_difference(tiled(single, image.float(), core=core), single(image.float())) < 1e-4
    assert whole.std(dim=(2, 3)).min() > 0.05


@pytest.mark.parametrize("name", ["r31", "r41"])
def test_law_5_frozen_equals_unfrozen_and_stays_narrow(name: str) -> None:
    """compress and T are one 1x1 convolution, the mean folds into it, and unzip into the decoder's first one."""
    net = network(name)
    statistics, image = collect_statistics(net, picture(72, 56, seed=1)), tensor(picture(64, 48))
    exact = in_float64(net)
    with torch.inference_mode():
        precise = exact.normalise_with(statistics).module(image.double())
        assert largest_difference(exact.freeze(statistics).module(image.double()), precise) < 1e-9
        frozen = net.freeze(statistics)
        assert largest_difference(frozen.module(image), net.normalise_with(statistics).module(image)) < 1e-4
    assert not [layer for layer in frozen.modules() if isinstance(layer, ChannelAffine) or is_norm(layer)]
    layers = [layer for layer in frozen.modules() if isinstance(layer, nn.Conv2d)]
    channels = WIDTHS[name][-1]
    assert [(c.in_channels, c.out_channels) for c in layers if c.kernel_size == (1, 1)] == [(channels, 4)]
    assert [c.in_channels for c in layers if c.kernel_size == (3, 3)][len(WIDTHS[name])] == 4
    assert len(layers) == 2 * len(WIDTHS[name]) + 1


@pytest.mark.parametrize("name", ["r31", "r41"])
def test_statistics_in_windows_are_those_in_one_piece(name: str) -> None:
    """Zero-padded convolutions inside the second norm reach three positions further than the features themselves."""
    net = in_float64(network(name))
    pixels = picture(101, 300 if name == "r31" else 600)
    whole, parts = collect_statistics(net, pixels), collect_statistics(net, pixels, max_pixels=2000)
    assert isinstance(whole["transform"], Covariance)
    for layer in net.norms:
        assert parts[layer].count == whole[layer].count
        for part, array in whole[layer].arrays().items():
            assert np.allclose(parts[layer].arrays()[part], array, rtol=0, atol=1e-12 * np.abs(array).max() + 1e-12)


def test_the_second_norm_sees_features_without_the_thumbnails_mean() -> None:
    net = in_float64(network("r31"))
    pixels = picture(64, 48)
    statistics = collect_statistics(net, pixels)
    with torch.inference_mode():
        features = net.module.get_submodule("encoder")(tensor(pixels, torch.float64))
        transform = net.module.get_submodule("transform")
        assert isinstance(transform, LinearTransform)
        seen = transform.observe(features - features.mean(dim=(2, 3), keepdim=True))
    assert np.allclose(statistics["centre"].mean, features.mean(dim=(0, 2, 3)), rtol=0, atol=1e-12)
    assert np.allclose(statistics["transform"].mean, seen.mean(dim=(0, 2, 3)), rtol=0, atol=1e-12)


def test_the_content_matrix_is_of_the_gram_and_not_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 8, 9)) + 2.0
    net = MatrixNetwork(5, (4, 4, 3)).requires_grad_(requires_grad=False)
    net.fc.weight.copy_(torch.eye(9))
    net.fc.bias.zero_()
    flat = x[0].reshape(3, -1)
    assert np.allclose(net.matrix(Covariance.of(x)), flat @ flat.T / 72, atol=1e-12)
    with pytest.raises(NetworkError, match="needs the covariance"):
        LinearTransform(torch.eye(3), net, nn.Conv2d(5, 3, 1)).frozen(Moments.of(x))
    with pytest.raises(NetworkError, match="do not fit"):
        LinearTransform(torch.eye(2), net, nn.Conv2d(5, 3, 1))


def test_a_blank_thumbnail_gives_finite_pixels() -> None:
    net = network()
    frozen = net.freeze(collect_statistics(net, np.full((64, 64, 3), 200, np.uint8)))
    with torch.inference_mode():
        assert bool(frozen.module(tensor(picture(32, 32))).isfinite().all())


def test_styles_are_mixed_by_their_matrices_and_means() -> None:
    other = picture(40, 40, seed=5)
    choices = [(STYLE,), (STYLE, STYLE), (STYLE, other), (other,)]
    modules = [network("r31", styled(*styles)).module for styles in choices]
    for part in ("transform.style", "style_mean.shift"):
        one, twice, both, alone = (module.state_dict()[part] for module in modules)
        assert largest_difference(twice, one) < 1e-6
        assert largest_difference(both, (one + alone) / 2) < 1e-6
        assert largest_difference(one, alone) > 1e-2


# Published files

R41 = {"convs.0": (256, 512, 3, 3), "convs.2": (128, 256, 3, 3), "convs.4": (32, 128, 3, 3), "fc": (1024, 1024)}
R31 = {"convs.0": (128, 256, 3, 3), "convs.2": (64, 128, 3, 3), "convs.4": (32, 64, 3, 3), "fc": (1024, 1024)}
VGG = [(3, 3), (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), *[(256, 256)] * 3, (512, 256)]


def listed(name: str) -> tuple[State, State, State]:
    """As listed with the published code; no memory behind the values."""
    depth, nets = {"r41": (9, R41), "r31": (5, R31)}[name]
    encoder = {
        f"conv{i}": (*shape, 3 if i > 1 else 1, 3 if i > 1 else 1) for i, shape in enumerate(VGG[: depth + 1], 1)
    }
    mirrored = [(i, o, 3, 3) for o, i in reversed(VGG[1 : depth + 1])]
    decoder = {f"conv{i}": shape for i, shape in enumerate(mirrored, depth + 2)}
    channels = VGG[depth][0]
    rest: dict[str, tuple[int, ...]] = {
        f"{net}.{layer}": shape for net in ("snet", "cnet") for layer, shape in nets.items()
    }
    rest |= {"compress": (32, channels, 1, 1), "unzip": (channels, 32, 1, 1)}

    def state(layers: Mapping[str, tuple[int, ...]]) -> State:
        weights_ = {f"{layer}.weight": torch.zeros(1).expand(shape) for layer, shape in layers.items()}
        return weights_ | {f"{layer}.bias": torch.zeros(1).expand(shape[:1]) for layer, shape in layers.items()}

    return state(encoder), state(decoder), state(rest)


def save(folder: Path, name: str, files: tuple[State, State, State]) -> WeightFiles:
    folder.mkdir(exist_ok=True)
    for file, state in zip((f"vgg_{name}", f"dec_{name}", name), files, strict=True):
        torch.save(state, folder / f"{file}.pth")
    return WeightFiles.of(folder)


@pytest.mark.parametrize(("name", "tensors"), [("r41", 20 + 18 + 20), ("r31", 12 + 10 + 20)])
def test_the_published_layout_is_read(tmp_path: Path, name: str, tensors: int) -> None:
    files = listed(name)
    save(tmp_path, name, files)
    torch.save(listed("r41")[0], tmp_path / "vgg_r51.pth")  # the loss network lies beside them
    state = METHOD.read(WeightFiles.of(tmp_path))
    assert len(state) == tensors
    assert (
        sum(value.numel() for value in state.values())
        == {
            "r41": 3_505_740 + 3_505_219 + 5_156_192,
            "r31": 555_340 + 555_075 + 2_890_464,
        }[name]
    )


@pytest.mark.parametrize("name", ["r41", "r31"])
def test_published_names_become_this_packages(tmp_path: Path, name: str) -> None:
    state = random_linear_wct(WIDTHS[name], 1)
    encoder, decoder, rest = published(name, state)
    assert ("conv10.weight" in encoder) is (name == "r41")
    marked = {f"module.{key}": value.half() for key, value in rest.items()}
    found = METHOD.read(save(tmp_path, name, (encoder, decoder, marked)))
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert largest_difference(found[key], value.half().float() if key in rest else value) == 0, key


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    encoder, decoder, rest = listed("r31")
    other = listed("r41")

    def less(state: State, name: str) -> State:
        return {key: value for key, value in state.items() if key != name}

    cases = {
        r"r31\.pth is not LinearWCT's transformation at relu3_1: cnet\.fc\.bias is missing$": (
            encoder, decoder, less(rest, "cnet.fc.bias")),
        r"vgg_r31\.pth is not LinearWCT's encoder.*conv7\.weight, conv8\.weight and 6 more are not part of it": (
            other[0], decoder, rest),
        r"dec_r31\.pth is not LinearWCT's decoder from relu3_1.*conv9\.weight is missing": (
            encoder, less(decoder, "conv9.weight"), rest),
        r"these weights look like LinearWCT's transformation": (rest, decoder, rest),
        r"snet\.convs\.0\.weight has shape \(256, 512, 3, 3\)": (encoder, decoder, other[2]),
        r"unzip\.weight has shape \(256, 31, 1, 1\)": (
            encoder, decoder, {**rest, "unzip.weight": torch.zeros(256, 31, 1, 1)}),
        r"the encoder of .*: 9\.weight and 9\.bias have shapes \(128, 60": (
            {**encoder, "conv4.weight": torch.zeros(128, 60, 3, 3)}, decoder, rest),
    }  # fmt: skip
    for says, files in cases.items():
        with pytest.raises(NetworkError, match=says) as caught:
            METHOD.read(save(tmp_path, "r31", files))
        assert "\n" not in str(caught.value)


def test_files_of_one_level_are_wanted(tmp_path: Path) -> None:
    save(tmp_path, "r31", listed("r31"))
    save(tmp_path, "r41", listed("r41"))
    with pytest.raises(NetworkError, match=r"for r31 and for r41; name the three files of one"):
        METHOD.read(WeightFiles.of(tmp_path))
    three = [tmp_path / f"{part}r41.pth" for part in ("vgg_", "dec_", "")]
    assert len(METHOD.read(WeightFiles.of(three))) == 58
    with pytest.raises(NetworkError, match=r"the decoder has no file"):
        METHOD.read(WeightFiles.of([three[0], three[2]]))


def test_what_was_read_is_built_from_as_it_is() -> None:
    state = METHOD.sample(0)
    with pytest.raises(NetworkError, match=r"compress\.bias is missing"):
        METHOD.build({name: value for name, value in state.items() if name != "compress.bias"}, styled(STYLE))
    with pytest.raises(NetworkError, match=r"odd\.weight is not part of it"):
        METHOD.build({**state, "odd.weight": torch.zeros(1)}, styled(STYLE))
    assert not METHOD.takes_alpha


@needs_shared
def test_principal_components_of_real_features_carry_a_photo() -> None:
    """No published weights are at hand. With T = 1 and the 32 principal components of the photo's own features for
    compress and unzip, what is left of the network is an autoencoder of rank 32, and the style is the photo itself."""
    folder, pixels = weights("wct"), photo(120, 160)
    state = random_linear_wct((3, 4, 4, 5, 256), 0)
    state = {name: value for name, value in state.items() if name.startswith(("snet", "cnet"))}
    for part, file in (("encoder", "vgg_normalised_conv3_1.pth"), ("decoder", "feature_invertor_conv3_1.pth")):
        loaded = torch.load(folder / file, weights_only=True)
        state |= {f"{part}.{name}": value for name, value in loaded.items()}
    for part in ("snet", "cnet"):
        state[f"{part}.convs.4.weight"], state[f"{part}.convs.4.bias"] = torch.zeros(32, 5, 3, 3), torch.zeros(32)
        state[f"{part}.fc.weight"], state[f"{part}.fc.bias"] = torch.zeros(1024, 1024), torch.eye(32).flatten()
    state |= {"compress.weight": torch.zeros(32, 256, 1, 1), "compress.bias": torch.zeros(32)}
    state |= {"unzip.weight": torch.zeros(256, 32, 1, 1), "unzip.bias": torch.zeros(256)}
    with torch.inference_mode():
        probe = METHOD.build(state, styled(pixels)).module.get_submodule("encoder")
        components = np.linalg.eigh(Covariance.of(probe(tensor(pixels))).comoment)[1][:, -32:]
        state["compress.weight"] = torch.tensor(components.T.copy()).float()[..., None, None]
        state["unzip.weight"] = torch.tensor(components).float()[..., None, None]
        net = METHOD.build(state, styled(pixels))
        statistics = collect_statistics(net, pixels)
        frozen = net.freeze(statistics)
        again = frozen(tensor(pixels))
        assert (again - tensor(pixels)).abs().mean() < 0.06
        assert largest_difference(tiled(frozen, tensor(pixels), core=64), again) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(tensor(pixels)), again) < 1e-4

"""AdaIN: the paper's equations on raw published names give the same picture; laws 3 to 5; what does not fit is said."""

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
    statistics_of,
    tensor,
    tiled,
    weights,
)
from tests.torch7_support import as_torch7, sequential
from urst_tiles.errors import NetworkError
from urst_tiles.networks.adain import METHOD
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.normalization import ChannelAffine, is_norm
from urst_tiles.networks.styling import StyleImage, Styling
from urst_tiles.networks.vgg import random_vgg
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics

State = dict[str, Tensor]

ENCODER = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)
DECODER = (1, 5, 8, 11, 14, 18, 21, 25, 28)
WIDTHS = {1: (4,), 3: (3, 4, 5), 5: (3, 4, 4, 5, 6), 9: (3, 4, 4, 5, 6, 6, 6, 6, 8), 13: (2, 2, 3, 3, *([4] * 9))}
"""Narrow encoders: number of 3x3 convolutions → their widths."""


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


def network(styling: Styling | None = None, depth: int = 9, seed: int = 0) -> StyleNetwork:
    state = random_vgg(WIDTHS[depth], torch.Generator().manual_seed(seed))
    return METHOD.build(state, styling or styled(STYLE))


def convolve(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    if weight.shape[-1] == 3:
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(x, weight, bias)


def encode(state: State, x: Tensor) -> Tensor:
    """Down to relu4_1, from the published numbers."""
    x = convolve(state, "encoder.0", x)
    for position in ENCODER[1:]:
        if position in (9, 16, 29):
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        x = convolve(state, f"encoder.{position}", x).relu()
    return x


def decode(state: State, x: Tensor) -> Tensor:
    for position in DECODER[:-1]:
        x = convolve(state, f"decoder.{position}", x).relu()
        if position in (1, 14, 21):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return convolve(state, "decoder.28", x)


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Eq. 8 of the paper, unbiased variances, 1e-5 added to them."""

    def spread(x: Tensor) -> Tensor:
        return (x.var(dim=(2, 3), keepdim=True, unbiased=True) + 1e-5).sqrt()

    middle = content.mean(dim=(2, 3), keepdim=True)
    return spread(style) * (content - middle) / spread(content) + style.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
def test_when_the_thumbnail_is_the_image_the_papers_equations_agree(alpha: float) -> None:
    """Oracle: plain functional calls on the weights' names; the style's side is odd, so that pooling must round up."""
    state, pixels = METHOD.sample(0), picture(48, 64)
    net = in_float64(METHOD.build(state, styled(STYLE, alpha=alpha)))
    content, style = (encode(state, tensor(image, torch.float64)) for image in (pixels, STYLE))
    assert style.shape[-1] == 8
    expected = decode(state, alpha * adain(content, style) + (1 - alpha) * content)
    with torch.inference_mode():
        image = tensor(pixels, torch.float64)
        # The style's statistics were taken in float32.
        assert largest_difference(net.freeze(collect_statistics(net, pixels)).module(image), expected) < 1e-5
        assert largest_difference(net.module(image), expected) < 1e-5
    assert expected.std(dim=(2, 3)).min() > 0.05
    if alpha == 0.0:
        assert largest_difference(expected, decode(state, content)) == 0


@pytest.mark.parametrize(("depth", "stride", "halo"), [(1, 1, 2), (3, 2, 8), (5, 4, 24), (9, 8, 64), (13, 16, 160)])
def test_stride_and_halo_follow_the_depth_of_the_weights(depth: int, stride: int, halo: int) -> None:
    net = network(depth=depth)
    assert (net.stride, net.halo, net.norms) == (stride, halo, ("norm",))
    assert net.scale == 1


@pytest.mark.parametrize(("depth", "core"), [(5, 28), (9, 40)])
def test_laws_3_and_4_tiled_equals_whole_and_the_halo_is_tight(depth: int, core: int) -> None:
    net = in_float64(network(depth=depth))
    pixels = picture(107, 149)
    frozen, image = net.freeze(collect_statistics(net, picture(80, 64, seed=1))), tensor(pixels, torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=core), whole) < 1e-12
        assert largest_difference(tiled(frozen, image, core=core, halo=net.halo - net.stride), whole) > 1e-6
        single = network(depth=depth).freeze(collect_statistics(net, pixels))
        assert largest_difference(tiled(single, image.float(), core=core), single(image.float())) < 1e-4
    assert whole.std(dim=(2, 3)).min() > 0.05


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_law_5_frozen_equals_unfrozen_and_all_is_folded(alpha: float) -> None:
    net = network(styled(STYLE, alpha=alpha))
    statistics, image = collect_statistics(net, picture(72, 56, seed=1)), tensor(picture(64, 48))
    exact = in_float64(net)
    with torch.inference_mode():
        precise = exact.normalise_with(statistics).module(image.double())
        assert largest_difference(exact.freeze(statistics).module(image.double()), precise) < 1e-9
        frozen = net.freeze(statistics)
        assert largest_difference(frozen.module(image), net.normalise_with(statistics).module(image)) < 1e-4
    assert not [layer for layer in frozen.modules() if isinstance(layer, ChannelAffine) or is_norm(layer)]
    # The 1x1 for the value range folds too.
    assert sum(isinstance(layer, nn.Conv2d) for layer in frozen.modules()) == len(ENCODER) - 1 + len(DECODER)


def test_statistics_in_windows_are_those_in_one_piece() -> None:
    net = in_float64(network(depth=5))
    pixels = picture(101, 230)
    whole, parts = collect_statistics(net, pixels), collect_statistics(net, pixels, max_pixels=2000)
    assert parts["norm"].count == whole["norm"].count
    assert np.allclose(parts["norm"].mean, whole["norm"].mean, rtol=0, atol=1e-12)
    assert np.allclose(parts["norm"].m2, whole["norm"].m2, rtol=1e-10)


def test_a_blank_thumbnail_gives_finite_pixels() -> None:
    net = network()
    frozen = net.freeze(collect_statistics(net, np.full((64, 64, 3), 200, np.uint8)))
    with torch.inference_mode():
        assert bool(frozen.module(tensor(picture(32, 32))).isfinite().all())


def test_styles_are_mixed_by_their_means_and_deviations() -> None:
    other = picture(40, 40, seed=5)
    one, twice, both, alone = (network(styled(*s)).module.get_submodule("norm") for s in
                               [(STYLE,), (STYLE, STYLE), (STYLE, other), (other,)])  # fmt: skip
    for part in ("mean", "std"):
        first, second = getattr(one, part), getattr(alone, part)
        assert largest_difference(getattr(twice, part), first) < 1e-6
        assert largest_difference(getattr(both, part), (first + second) / 2) < 1e-6
        assert largest_difference(first, second) > 1e-2


# Published files


def published(depth: int = 9, *, whole_vgg: bool = True) -> tuple[State, State]:
    """Encoder and decoder of the published shapes, as listed with the published code; no memory behind the values."""
    vgg = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), *[(256, 256)] * 3, (512, 256), *[(512, 512)] * 7]
    places = [*ENCODER, 32, 35, 38, 42, 45, 48, 51] if whole_vgg else ENCODER[: depth + 1]
    encoder = {f"{place}.weight": (*shape, 3, 3) for place, shape in zip(places[1:], vgg, strict=False)}
    up = {9: DECODER, 5: (1, 5, 8, 12, 15)}[depth]
    shapes = [*((i, o) for o, i in reversed(vgg[1:depth])), (3, 64)]
    decoder = {f"{place}.weight": (*shape, 3, 3) for place, shape in zip(up, shapes, strict=True)}

    def state(named: Mapping[str, tuple[int, ...]]) -> State:
        biases = {name.replace("weight", "bias"): shape[:1] for name, shape in named.items()}
        return {name: torch.zeros(1).expand(shape) for name, shape in sorted({**named, **biases}.items())}

    return state({"0.weight": (3, 3, 1, 1), **encoder}), state(decoder)


def read(folder: Path, encoder: State, decoder: State, name: str = "decoder.pth") -> State:
    folder.mkdir(exist_ok=True)
    torch.save(encoder, folder / "vgg_normalised.pth")
    torch.save(decoder, folder / name)
    return METHOD.read(WeightFiles.of(folder))


@pytest.mark.parametrize("name", ["decoder.pth", "decoder_stroke_perceptual_loss_1.pth.tar"])
def test_the_published_layout_is_read(tmp_path: Path, name: str) -> None:
    encoder, decoder = published()
    assert (len(encoder), len(decoder)) == (34, 18)
    state = read(tmp_path, encoder, decoder, name)
    assert len(state) == 20 + 18
    assert state["encoder.29.weight"].shape == (512, 256, 3, 3)
    assert state["decoder.1.weight"].shape == (256, 512, 3, 3)
    marked = read(tmp_path / "marked", {f"module.{n}": t.half() for n, t in encoder.items()}, decoder)
    assert marked.keys() == state.keys()
    assert {value.dtype for value in marked.values()} == {torch.float32}


def test_a_decoder_for_relu3_1_cuts_the_encoder_there(tmp_path: Path) -> None:
    encoder, decoder = published(5)
    assert len(read(tmp_path, encoder, decoder)) == 12 + 10
    short, _ = published(5, whole_vgg=False)
    assert read(tmp_path, short, decoder).keys() == read(tmp_path, encoder, decoder).keys()


def test_the_authors_torch7_files_are_read(tmp_path: Path) -> None:
    state = random_vgg(WIDTHS[5], torch.Generator().manual_seed(0))
    for part, file, places in (("encoder", "vgg_normalised.t7", 18), ("decoder", "decoder.t7", 16)):
        prefix = f"{part}."
        layers = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        (tmp_path / file).write_bytes(as_torch7(sequential(layers, places=places)))
    found = METHOD.read(WeightFiles.of(tmp_path))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    encoder, decoder = published()
    short, shallow = published(5, whole_vgg=False)
    odd = torch.zeros(256, 256, 5, 5)
    cases = {
        r"decoder\.pth is not an AdaIN decoder from relu4_1: 8\.bias is missing$": (
            encoder, without(decoder, "8.bias")),
        r"decoder\.pth .* 31\.weight is not part of it": (encoder, {**decoder, "31.weight": odd}),
        r"vgg_normalised\.pth is not a VGG encoder down to relu4_1.*25\.weight is missing": (
            without(encoder, "25.weight"), decoder),
        r"down to relu4_1, where the decoder begins: 19\.weight, 19\.bias and 6 more are missing": (short, decoder),
        r"extra\.weight is not part of it": ({**encoder, "extra.weight": odd}, decoder),
        r"the encoder of .*22\.weight and 22\.bias have shapes \(256, 256, 5, 5\)": (
            {**encoder, "22.weight": odd}, decoder),
        r"the decoder of .*: 1\.weight and 1\.bias have shapes \(128, 200": (
            encoder, {**shallow, "1.weight": torch.zeros(128, 200, 3, 3)}),
        r"the decoder of .* gives 4 channels where an image has 3": (
            encoder, {**decoder, "28.weight": torch.zeros(4, 64, 3, 3), "28.bias": torch.zeros(4)}),
        r"these weights look like a MicroAST decoder": (encoder, {"dec1.conv1.conv_layer.weight": odd}),
    }  # fmt: skip
    for says, (lower, upper) in cases.items():
        with pytest.raises(NetworkError, match=says) as caught:
            read(tmp_path, lower, upper)
        assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    torch.save(published()[0], tmp_path / "vgg_normalised.pth")
    with pytest.raises(NetworkError, match=r"the decoder has no file.*vgg_normalised\.pth"):
        METHOD.read(WeightFiles.of(tmp_path))


def test_what_was_read_is_built_from_as_it_is() -> None:
    state = METHOD.sample(0)
    assert statistics_of(METHOD.build(state, styled(STYLE)))["norm"].mean.shape == (8,)
    with pytest.raises(NetworkError, match=r"more\.0 is neither"):
        METHOD.build({**state, "more.0": torch.zeros(1)}, styled(STYLE))
    with pytest.raises(NetworkError, match="is missing"):
        METHOD.build(without(state, "encoder.9.bias"), styled(STYLE))


@needs_shared
def test_real_vgg_weights_reproduce_a_photo_and_paint_it() -> None:
    """WCT's encoder and decoder for relu3_1: an autoencoder, so that alpha 0 gives the photo back."""
    folder = weights("wct")
    files = [folder / "vgg_normalised_conv3_1.pth", folder / "feature_invertor_conv3_1.pth"]
    state = {
        **{f"encoder.{name}": value for name, value in torch.load(files[0], weights_only=True).items()},
        **{f"decoder.{name}": value for name, value in torch.load(files[1], weights_only=True).items()},
    }
    pixels = photo(120, 161)
    image = tensor(pixels)
    with torch.inference_mode():
        plain = METHOD.build(state, styled(STYLE, alpha=0.0))
        same = plain.freeze(collect_statistics(plain, pixels))(image)
        assert (same - image).abs().mean() < 0.06
        net = METHOD.build(state, styled(STYLE))
        statistics = collect_statistics(net, pixels)
        frozen = net.freeze(statistics)
        painted = frozen(image)
        assert largest_difference(tiled(frozen, image, core=64), painted) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(image), painted) < 1e-4
    # The style is grey on average and the photo is not: the colours came over.
    wanted, before, after = (x.mean(dim=(2, 3)) for x in (tensor(STYLE), image, painted))
    assert (after - wanted).abs().sum() < 0.5 * (before - wanted).abs().sum()

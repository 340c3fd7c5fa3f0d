"""Every method, through the same laws: tiled equals whole, the halo is tight, frozen equals unfrozen, statistics in
windows equal those in one piece. Random weights in the published geometry; the methods' own files test the rest."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.networks_support import in_float64, largest_difference, noise, statistics_of, tensor, tiled
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import METHODS, convert_weights, load_network, sample_network
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.catalogue import describe_methods
from urst_tiles.networks.normalization import is_norm
from urst_tiles.networks.saving import save_state
from urst_tiles.statistics import collect_statistics

HALOS = {
    # method: (stride, halo, norm layers), as the design's table has them
    "adain": (8, 64, 1),
    "collaborative": (16, 256, 5),
    "cyclegan": (4, 84, 23),
    "identity": (1, 0, 0),
    "johnson": (4, 56, 15),
    "linear-wct": (8, 64, 2),
    "microast": (4, 52, 2),
    "msgnet": (4, 40, 32),
    "multimodal": (4, 140, 56),
    "wct": (16, 256, 5),
}

STYLED = [name for name in METHODS if METHODS[name].takes_style]
TRAINED = [name for name in METHODS if METHODS[name].takes_weights]
SMALL = [name for name in TRAINED if HALOS[name][1] < 100]
"""Methods whose windows are small enough to run many of in a test."""


@cache
def sample(method: str) -> StyleNetwork:
    return in_float64(sample_network(method))


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Noise on slow waves: something at every scale."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 60 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * np.array([1.0, -0.6, 0.4])
    pixels: NDArray[np.uint8] = (128 + waves + 0.4 * (noise(height, width) - 128.0)).clip(0, 255).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("method", METHODS)
def test_stride_and_halo_come_out_of_the_graph(method: str) -> None:
    network = sample(method)
    assert (network.stride, network.halo, len(network.norms)) == HALOS[method]
    assert network.scale == 1


@pytest.mark.parametrize("method", SMALL)
def test_law_3_tiled_equals_whole(method: str) -> None:
    network, image = sample(method), tensor(smooth(101, 127), torch.float64)
    frozen = network.freeze(statistics_of(network))
    with torch.inference_mode():
        whole = frozen(image)
        assert whole.std() > 0.02
        assert largest_difference(tiled(frozen, image, core=12 * network.stride), whole) < 1e-9


def reaches_past(network: StyleNetwork, halo: int) -> bool:
    """Whether a core of one stride is made from pixels farther than ``halo`` from it: NaN shows what was read."""
    stride = network.stride
    margin = network.halo + 2 * stride
    image = torch.full((1, 3, 2 * margin + stride, 2 * margin + stride), torch.nan, dtype=network.dtype)
    seen = slice(margin - halo, margin + stride + halo)
    image[..., seen, seen] = 0.5
    with torch.inference_mode():
        core = network.plain(image)[..., margin : margin + stride, margin : margin + stride]
    return bool(core.isnan().any())


@pytest.mark.parametrize("method", TRAINED)
def test_law_4_the_halo_is_tight(method: str) -> None:
    network = sample_network(method)
    assert not reaches_past(network, network.halo)
    assert reaches_past(network, network.halo - network.stride)


@pytest.mark.parametrize("method", TRAINED)
def test_law_3_in_float32(method: str) -> None:
    network = sample_network(method)
    side = 61 if network.halo < 100 else network.halo + 37
    pixels = smooth(side, side + 30)
    frozen = network.freeze(collect_statistics(network, pixels))
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        core = -(-side // 2 // network.stride) * network.stride
        assert largest_difference(tiled(frozen, tensor(pixels), core=core), whole) < 1e-4


@pytest.mark.parametrize("method", TRAINED)
def test_law_5_frozen_equals_unfrozen(method: str) -> None:
    network, pixels = sample(method), smooth(67, 83)
    statistics = collect_statistics(network, pixels)
    frozen, unfrozen = network.freeze(statistics), network.normalise_with(statistics)
    assert not [layer for layer in frozen.modules() if is_norm(layer)]
    with torch.inference_mode():
        image = tensor(pixels, torch.float64)
        assert largest_difference(frozen(image), unfrozen(image)) < 1e-7
        assert largest_difference(network.normalise_with(statistics)(image), unfrozen(image)) == 0
        # And with statistics that are not the image's own.
        other = tensor(smooth(50, 41)[::-1].copy(), torch.float64)
        assert largest_difference(frozen(other), unfrozen(other)) < 1e-7


@pytest.mark.parametrize("method", SMALL)
def test_statistics_in_windows_are_those_in_one_piece(method: str) -> None:
    network = sample(method)
    pixels = smooth(48, 4 * max(network.halo, 24) + 60)
    whole = collect_statistics(network, pixels)
    parts = collect_statistics(network, pixels, max_pixels=2000)
    for name in network.norms:
        assert parts[name].count == whole[name].count
        for part, array in whole[name].arrays().items():
            scale = np.abs(array).max() + 1e-12
            assert np.abs(parts[name].arrays()[part] - array).max() <= 1e-7 * scale, (name, part)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_thumbnail_gives_finite_pixels(method: str, level: int) -> None:
    """In float64 by itself. In float32 the deepest networks amplify past its range, and what is no number is grey."""
    blank = np.full((48, 48, 3), level, np.uint8)
    network = sample(method)
    with torch.inference_mode():
        inner = network.freeze(collect_statistics(network, blank)).module
        assert bool(inner(tensor(noise(48, 64), torch.float64)).isfinite().all())
        network = sample_network(method)
        frozen = network.freeze(collect_statistics(network, blank))
        assert bool(frozen(tensor(noise(48, 64))).isfinite().all())


@pytest.mark.parametrize("method", STYLED)
def test_styles_are_mixed_by_weight(method: str, tmp_path: Path) -> None:
    """Twice the same style is that style; two styles are neither; weights count by their proportion."""
    path = tmp_path / "weights.safetensors"
    save_state(path, method, METHODS[method].sample(0))
    one, other = smooth(64, 64), smooth(70, 80)[::-1, :, ::-1].copy()
    pixels = smooth(40, 44)

    def result(style: object) -> torch.Tensor:
        network = in_float64(load_network(method, path, style=style, style_size=64))
        with torch.inference_mode():
            found: torch.Tensor = network.freeze(collect_statistics(network, pixels))(tensor(pixels, torch.float64))
        return found

    alone = result(one)
    assert largest_difference(result([(one, 0.3), (one, 0.7)]), alone) < 1e-5
    assert largest_difference(result([(one, 7), (other, 3)]), result([(one, 0.7), (other, 0.3)])) < 1e-9
    assert largest_difference(result(other), alone) > 1e-3
    assert largest_difference(result([one, other]), alone) > 1e-4


@pytest.mark.parametrize(
    # MicroAST's alpha is that of its features; the style goes on modulating its filters, as published.
    "method",
    [name for name in STYLED if METHODS[name].takes_alpha and name != "microast"],
)
def test_alpha_0_does_not_see_the_style(method: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_state(path, method, METHODS[method].sample(0))
    pixels = smooth(40, 44)

    def result(style: NDArray[np.uint8], alpha: float) -> torch.Tensor:
        network = load_network(method, path, style=style, alpha=alpha, style_size=64)
        with torch.inference_mode():
            found: torch.Tensor = network.freeze(collect_statistics(network, pixels))(tensor(pixels))
        return found

    one, other = smooth(64, 64), smooth(64, 64)[::-1].copy() // 2
    assert largest_difference(result(one, 0.0), result(other, 0.0)) < 1e-5
    assert largest_difference(result(one, 1.0), result(other, 1.0)) > 1e-3


@pytest.mark.parametrize("method", STYLED)
def test_preserve_color_gives_the_style_the_rasters_colours(method: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_state(path, method, METHODS[method].sample(0))
    plain = load_network(method, path, style=smooth(64, 64), style_size=64)
    asked = load_network(method, path, style=smooth(64, 64), style_size=64, preserve_color=True)
    assert (plain.wants_content, asked.wants_content) == (False, True)
    assert asked.weights_hash != plain.weights_hash
    content = smooth(64, 64)[..., ::-1].copy()
    recoloured = asked.for_content(content)
    assert recoloured.weights_hash != asked.weights_hash
    assert plain.for_content(content) is plain


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("half", [False, True])
def test_converted_weights_are_read_back(method: str, half: bool, tmp_path: Path) -> None:
    state = METHODS[method].sample(3)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_state(first, method, state)
    convert_weights(method, first, second, half=half)
    style: dict[str, Any] = {"style": smooth(64, 64), "style_size": 64} if METHODS[method].takes_style else {}
    before, after = load_network(method, first, **style), load_network(method, second, **style)
    tolerance = 2e-2 if half else 0.0
    for name, tensor_before in before.module.state_dict().items():
        scale = float(tensor_before.abs().max()) + 1e-6
        assert float((after.module.state_dict()[name] - tensor_before).abs().max()) <= tolerance * scale, name
    with pytest.raises(NetworkError, match="says that it holds weights of method"):
        load_network(next(name for name in TRAINED if name != method and not METHODS[name].takes_style), second)


@pytest.mark.parametrize("method", TRAINED)
def test_weights_of_another_method_are_refused_in_one_line(method: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"something.else.weight": torch.zeros(4, 3, 3, 3)}, path)
    style: dict[str, Any] = {"style": smooth(64, 64)} if METHODS[method].takes_style else {}
    with pytest.raises(NetworkError) as caught:
        load_network(method, path, **style)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_does_not_take_is_refused(method: str, tmp_path: Path) -> None:
    found = METHODS[method]
    path = tmp_path / "weights.safetensors"
    if found.takes_weights:
        save_state(path, method, found.sample(0))
    weights = path if found.takes_weights else None
    if not found.takes_style:
        with pytest.raises(InputError, match="takes no style image"):
            load_network(method, weights, style=smooth(8, 8))
        with pytest.raises(InputError, match="preserve-color"):
            load_network(method, weights, preserve_color=True)
    else:
        with pytest.raises(InputError, match="needs a style image"):
            load_network(method, weights)
    if not found.takes_alpha:
        style: dict[str, Any] = {"style": smooth(8, 8)} if found.takes_style else {}
        with pytest.raises(InputError, match="no alpha"):
            load_network(method, weights, alpha=0.5, **style)


def test_the_catalogue_names_every_method_and_its_facts() -> None:
    facts = {entry.name: entry for entry in describe_methods()}
    assert {name: (entry.stride, entry.halo, entry.norms) for name, entry in facts.items()} == HALOS
    for name in TRAINED:
        assert facts[name].paper
        assert facts[name].files
        assert facts[name].licence
        assert facts[name].published.startswith("https://")


def test_a_network_is_not_changed_by_freezing() -> None:
    network = sample_network("johnson")
    before = copy.deepcopy(network.module.state_dict())
    network.freeze(statistics_of(network))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())

"""Wang et al.'s distilled networks: WCT's cascade with narrow layers, a ReLU at each decoder's end, and real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

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
from tests.wct_support import State, half_of, published, reference, styles
from urst_tiles.errors import NetworkError
from urst_tiles.networks.collaborative import METHOD
from urst_tiles.networks.normalization import ChannelAffine, is_norm
from urst_tiles.networks.wct import random_levels
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics

WIDTHS = {
    # of the published files, by level and depth
    1: {"1": 24},
    2: {"1": 16, "2": 32},
    3: {"1": 16, "2": 32, "3": 64},
    4: {"1": 16, "2": 32, "3": 64, "4": 128},
    5: {"1": 16, "2": 32, "3": 64, "4": 128, "5": 128},
}


def with_aux(state: State, level: int) -> State:
    """What training leaves beside an encoder."""
    aux: State = {}
    for depth in range(1, level + 1):
        name = f"conv{depth}1"
        aux[f"{name}_aux.weight"] = torch.ones(9, state[f"{name}.weight"].shape[0], 1, 1)
        aux[f"{name}_aux.bias"] = torch.ones(9)
    return state | aux


def save(folder: Path, state: State, *levels: int, wrap: Callable[[State], object] = lambda state: state) -> None:
    for level in levels:
        torch.save(wrap(with_aux(half_of(state, level, "encoder"), level)), folder / f"{level}SE.pth")
        decoder = half_of(state, level, "decoder") | {f"aux{level}1.weight": torch.ones(3, 3, 1, 1)}
        torch.save(wrap(decoder), folder / f"{level}SD.pth")


def read(folder: Path) -> State:
    return METHOD.read(WeightFiles.of(folder))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 20}], ids=["bare", "model and epoch"])
def test_files_load_without_what_training_left(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    state = random_levels(0, (4, 2, 1))
    save(tmp_path, state, 4, 2, 1, wrap=wrap)
    torch.save({"conv0.weight": torch.zeros(3)}, tmp_path / "20191109-211322_E20.pth")  # as in the published folder
    found = read(tmp_path)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    net = METHOD.build(found, styles(1))
    assert net.norms == ("level4.norm", "level2.norm", "level1.norm")
    assert (net.name, net.stride) == ("collaborative", 8)


def test_encoders_and_decoders_in_two_folders(tmp_path: Path) -> None:
    state = random_levels(0, (2,))
    save(tmp_path, state, 2)
    folders = [tmp_path / "wct_se_16x_new", tmp_path / "wct_se_16x_new_sd"]
    for folder, name in zip(folders, ("2SE.pth", "2SD.pth"), strict=True):
        folder.mkdir()
        (tmp_path / name).rename(folder / name)
    assert set(METHOD.read(WeightFiles.of(folders))) == set(state)
    with pytest.raises(NetworkError, match=r"has its encoder and no decoder.*like 2SE\.pth and 2SD\.pth"):
        METHOD.read(WeightFiles.of(folders[0]))


@pytest.mark.parametrize("level", WIDTHS)
def test_published_shapes_load(tmp_path: Path, level: int) -> None:
    encoder, decoder = (published(level, half, WIDTHS[level]) for half in ("encoder", "decoder"))
    torch.save({"model": with_aux(encoder, level), "epoch": 20}, tmp_path / f"{level}SE.pth")
    torch.save({"model": decoder, "epoch": 20}, tmp_path / f"{level}SD.pth")
    found = read(tmp_path)
    assert {name: t.shape for name, t in half_of(found, level, "encoder").items()} == {
        name: t.shape for name, t in encoder.items()
    }
    assert {name: t.shape for name, t in half_of(found, level, "decoder").items()} == {
        name: t.shape for name, t in decoder.items()
    }
    METHOD.build(found, styles(1, side=32))


def test_a_link_that_became_a_text_is_refused(tmp_path: Path) -> None:
    save(tmp_path, random_levels(0, (1,)), 1)
    (tmp_path / "1SE.pth").write_text("20191110-132713_E20.pth")
    with pytest.raises(NetworkError, match=r"1SE\.pth is a text of 23 bytes.*symbolic link"):
        read(tmp_path)


def test_no_level_hands_on_colours_below_0() -> None:
    state = random_levels(2, (2, 1))
    net = METHOD.build(state, styles(5))
    statistics = collect_statistics(net, noise(32, 32))
    seen: list[torch.Tensor] = []
    reference_run = net.normalise_with(statistics)
    for level in ("level2", "level1"):
        reference_run.module.get_submodule(level).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.inference_mode():
        reference_run(tensor(noise(32, 32)))
    assert [float(out.min()) for out in seen] == [0.0, 0.0]


def test_stride_halo_and_sample() -> None:
    net = METHOD.build(METHOD.sample(0), styles(5))
    assert (net.stride, net.halo, len(net.norms)) == (16, 256, 5)


@pytest.mark.parametrize("levels", [(3, 2, 1), (2, 1)])
def test_laws_3_and_5(levels: tuple[int, ...]) -> None:
    net, pixels = METHOD.build(random_levels(1, levels), styles(5)), noise(131, 77)
    statistics = collect_statistics(net, pixels[::2, ::2].copy())
    frozen, exact = net.freeze(statistics), in_float64(net)
    image = tensor(pixels)
    with torch.inference_mode():
        whole = frozen(image)
        assert whole[0].flatten(1).std(1).max() > 0.05
        assert largest_difference(tiled(frozen, image, core=20), whole) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(image), whole) < 1e-4
        precise = exact.freeze(statistics)
        assert largest_difference(tiled(precise, image.double(), core=20), precise(image.double())) < 1e-12
        assert largest_difference(exact.normalise_with(statistics)(image.double()), precise(image.double())) < 1e-9
    for layer in frozen.modules():
        assert not isinstance(layer, ChannelAffine)
        assert not is_norm(layer)
        assert not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))


@needs_shared
def test_real_files_are_what_the_paper_writes() -> None:
    """Oracle: plain function calls with the files' numbers and NumPy's eigh, all five levels."""
    state = read(weights("collaborative"))
    styling = styles(5, side=128)
    net = in_float64(METHOD.build(state, styling))
    assert net.norms == tuple(f"level{level}.norm" for level in (5, 4, 3, 2, 1))
    pixels = photo(96, 112)
    image = tensor(pixels, torch.float64)
    with torch.inference_mode():
        expected = reference(image, styling.images[0].tensor, state, (5, 4, 3, 2, 1), 1.0, positive=True)
        found = net.freeze(collect_statistics(net, pixels)).module(image)
    # The style's mean and colouring are kept in float32, and five levels amplify that rounding.
    assert largest_difference(found, expected) < 1e-2
    assert (found - expected).abs().mean() < 1e-4
    assert expected.clamp(0, 1).std() > 0.1


@needs_shared
@pytest.mark.parametrize("level", WIDTHS)
def test_real_decoders_undo_real_encoders(level: int) -> None:
    folder = weights("collaborative")
    state = METHOD.read(WeightFiles.of([folder / f"{level}SE.pth", folder / f"{level}SD.pth"]))
    net = METHOD.build(state, styles(5, alpha=0.0))
    image = tensor(photo(64, 96))
    with torch.inference_mode():
        again = net.freeze(collect_statistics(net, photo(64, 96)))(image)
    # The deeper, the less of the picture is left.
    assert (again - image).abs().mean() < (0.0, 0.05, 0.05, 0.06, 0.1, 0.15)[level]


@needs_shared
def test_laws_3_and_5_with_real_weights_on_a_real_photo() -> None:
    state, pixels = read(weights("collaborative")), photo(600, 150)
    net = METHOD.build(state, styles(5, side=128))
    assert (net.stride, net.halo) == (16, 256)
    statistics = collect_statistics(net, pixels[::3].copy())
    frozen, exact = net.freeze(statistics), in_float64(net)
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert whole.std() > 0.1
        assert largest_difference(tiled(frozen, tensor(pixels), core=208), whole) < 1e-4
        # Under about 100 px, oneDNN convolves a window and the whole differently, and five levels amplify the
        # rounding to several 1e-4: there, float64 shows that nothing but rounding differs.
        narrow, double = tensor(pixels[:, :48], torch.float64), exact.freeze(statistics)
        assert largest_difference(tiled(double, narrow, core=208), double(narrow)) < 1e-9
        small = tensor(pixels[:96, :48])
        precise = exact.freeze(statistics).module(small.double())
        assert largest_difference(precise, exact.normalise_with(statistics).module(small.double())) < 1e-9
        # In float32 each level is exact to 5e-5; the levels after it amplify that, level 4 by up to 30 at single
        # pixels, in the frozen network as in the unfrozen one.
        unfrozen = net.normalise_with(statistics)(small)
        assert largest_difference(frozen(small), unfrozen) < 2e-3
        assert (frozen(small) - unfrozen).abs().mean() < 1e-4


@needs_shared
@pytest.mark.parametrize("level", WIDTHS)
def test_law_5_of_each_real_level(level: int) -> None:
    state = {k: v for k, v in read(weights("collaborative")).items() if k.startswith(f"level{level}.")}
    net, pixels = METHOD.build(state, styles(5, side=128)), photo(96, 112)
    statistics = collect_statistics(net, pixels)
    with torch.inference_mode():
        frozen = net.freeze(statistics)(tensor(pixels))
        assert largest_difference(frozen, net.normalise_with(statistics)(tensor(pixels))) < 1e-4

"""WCT: any subset of levels as one cascade, tiled as whole; published files under every name they go by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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
from tests.torch7_support import as_torch7, sequential
from tests.wct_support import (
    DECODER_PLACES,
    LAST,
    State,
    as_they_are,
    by_place,
    counted,
    half_of,
    published,
    reference,
    save_level,
    styles,
)
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.normalization import ChannelAffine, is_norm
from urst_tiles.networks.saving import save_state
from urst_tiles.networks.styling import Styling
from urst_tiles.networks.wct import METHOD, random_levels, wct_network
from urst_tiles.networks.wct_layouts import FileNames
from urst_tiles.networks.weight_files import WeightFiles
from urst_tiles.statistics import collect_statistics

FILES = ("vgg_normalised_conv{}_1.pth", "feature_invertor_conv{}_1.pth")

FIELDS = {
    # levels: stride, halo
    (5,): (16, 160),
    (4,): (8, 64),
    (3,): (4, 24),
    (2,): (2, 8),
    (1,): (1, 2),
    (5, 4, 3, 2, 1): (16, 256),
    (3, 2, 1): (4, 32),
    (2, 1): (2, 10),
}


def network(*levels: int, seed: int = 0, width: int = 2, styling: Styling | None = None) -> StyleNetwork:
    return METHOD.build(random_levels(seed, levels, width), styling or styles(5))


def left_over(module: nn.Module) -> list[str]:
    """Layers that freezing should have folded away, 1x1 convolutions among them."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, ChannelAffine)
        or is_norm(layer)
        or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]


@pytest.mark.parametrize("levels", FIELDS)
def test_stride_and_halo_come_out_of_the_graph(levels: tuple[int, ...]) -> None:
    net = network(*levels)
    assert (net.stride, net.halo) == FIELDS[levels]
    assert net.scale == 1
    assert net.norms == tuple(f"level{level}.norm" for level in levels)


@pytest.mark.parametrize("levels", [(1,), (2,), (3,), (4,), (2, 1), (3, 2, 1), (3, 1)])
@pytest.mark.parametrize(("height", "width", "core"), [(131, 73, 16), (67, 150, 40)])
def test_laws_3_and_5(levels: tuple[int, ...], height: int, width: int, core: int) -> None:
    net, pixels = network(*levels, seed=1), noise(height, width)
    statistics = collect_statistics(net, pixels[::2, ::2].copy())
    frozen, exact = net.freeze(statistics), in_float64(net)
    image = tensor(pixels)
    with torch.inference_mode():
        whole = frozen(image)
        assert whole[0].flatten(1).std(1).max() > 0.05  # not a plain picture, in which everything agrees
        assert largest_difference(tiled(frozen, image, core=core), whole) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(image), whole) < 1e-4
        precise = exact.freeze(statistics)
        assert largest_difference(tiled(precise, image.double(), core=core), precise(image.double())) < 1e-12
        assert largest_difference(exact.normalise_with(statistics)(image.double()), precise(image.double())) < 1e-9
    assert left_over(frozen) == []


@pytest.mark.parametrize("levels", [(1,), (2,), (3,), (4,), (5,), (2, 1), (3, 2, 1)])
def test_law_4_the_halo_is_tight(levels: tuple[int, ...]) -> None:
    """Of several random networks, some see the last row: a max pool hides the border from others."""
    differences = []
    for seed in range(4):
        net, pixels = in_float64(network(*levels, seed=seed)), noise(2 * FIELDS[levels][1] + 80, 48, seed=seed)
        frozen = net.freeze(collect_statistics(net, noise(64, 64)))
        image = tensor(pixels, torch.float64)
        with torch.inference_mode():
            whole = frozen(image)
            short = tiled(frozen, image, core=16, halo=net.halo - net.stride)
            differences.append(largest_difference(short, whole))
    assert max(differences) > 1e-12


def test_five_levels_tiled() -> None:
    net, pixels = network(5, 4, 3, 2, 1), noise(631, 40)
    statistics = collect_statistics(net, pixels[:64])
    frozen = net.freeze(statistics)
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert whole[0].flatten(1).std(1).max() > 0.05
        assert largest_difference(tiled(frozen, tensor(pixels), core=48), whole) < 1e-4
        # Far from a border that is not the picture's, nothing moves; at it, something does.
        cut = frozen(tensor(pixels[:400]))
        assert largest_difference(cut[..., :144, :], whole[..., :144, :]) < 1e-6
        assert largest_difference(cut[..., 144:, :], whole[..., 144:400, :]) > 1e-4
    assert left_over(frozen) == []


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("levels", "alpha"), [((1,), 1.0), ((3, 2, 1), 0.6), ((5,), 1.0), ((4, 2), 0.3)])
def test_the_network_is_what_the_paper_writes(levels: tuple[int, ...], alpha: float, positive: bool) -> None:
    """Oracle: plain function calls with the published keys, NumPy's covariance and eigh; the thumbnail is the image."""
    state, styling = random_levels(3, levels), styles(5, alpha=alpha)
    net = in_float64(wct_network(state, styling, positive=positive))
    pixels = noise(64, 48)
    style = styling.images[0].tensor
    with torch.inference_mode():
        expected = reference(tensor(pixels, torch.float64), style, state, levels, alpha, positive=positive)
        found = net.freeze(collect_statistics(net, pixels)).module(tensor(pixels, torch.float64))
        # The style's mean and colouring are kept in float32.
        assert largest_difference(found, expected) < 1e-5 * float(expected.abs().max())
        assert expected.std() > 0.05
        assert largest_difference(net.module(tensor(pixels, torch.float64)), found) < 1e-9


def test_alpha_0_is_the_plain_autoencoder() -> None:
    net = network(3, 2, styling=styles(5, alpha=0.0))
    image = tensor(noise(32, 32))
    with torch.inference_mode():
        expected = image
        for level in (3, 2):
            part = net.module.get_submodule(f"level{level}")
            expected = part.get_submodule("decoder")(part.get_submodule("encoder")(expected))
        frozen = net.freeze(collect_statistics(net, noise(32, 32, seed=1)))
        assert largest_difference(frozen.module(image), expected) < 1e-4
        strong = network(3, 2).freeze(collect_statistics(network(3, 2), noise(32, 32, seed=1)))
        assert largest_difference(strong.module(image), expected) > 0.1


def test_styles_are_mixed_by_weight() -> None:
    one, twice, other, both = (network(2, styling=styles(*seeds)) for seeds in [(5,), (5, 5), (9,), (5, 9)])
    names = ["level2.norm.mean", "level2.norm.colouring"]
    for name in names:
        values = [net.module.state_dict()[name] for net in (one, twice, other, both)]
        assert largest_difference(values[0], values[1]) < 1e-6
        assert largest_difference((values[0] + values[2]) / 2, values[3]) < 1e-6
        assert largest_difference(values[0], values[2]) > 1e-3
    with pytest.raises(InputError, match="a style image is needed"):
        METHOD.build(random_levels(0, (1,)), Styling())


def test_statistics_in_windows_are_those_in_one_piece() -> None:
    net, pixels = in_float64(network(3, 2, 1)), noise(160, 150)
    whole, parts = (collect_statistics(net, pixels, max_pixels=limit) for limit in (10**6, 64))
    for name in net.norms:
        assert whole[name].arrays()["comoment"] == pytest.approx(parts[name].arrays()["comoment"], rel=1e-9, abs=1e-9)
        assert whole[name].mean == pytest.approx(parts[name].mean, rel=1e-9)


def test_a_blank_thumbnail_gives_a_finite_picture() -> None:
    net = network(3, 2, 1)
    statistics = collect_statistics(net, noise(40, 40) * 0 + 255)
    assert statistics.degenerate
    with torch.inference_mode():
        assert net.freeze(statistics)(tensor(noise(40, 40))).isfinite().all()


def test_sample_is_the_published_geometry() -> None:
    state = METHOD.sample(7)
    assert list(state) == list(METHOD.sample(7))
    assert all(torch.equal(tensor, METHOD.sample(7)[name]) for name, tensor in state.items())
    assert not torch.equal(METHOD.sample(8)["level1.encoder.conv11.weight"], state["level1.encoder.conv11.weight"])
    assert (METHOD.build(state, styles(1)).stride, METHOD.build(state, styles(1)).halo) == (16, 256)


def read(folder: Path) -> State:
    return METHOD.read(WeightFiles.of(folder))


@pytest.mark.parametrize("levels", [(5, 4, 3, 2, 1), (3, 1), (4,)])
def test_the_files_decide_which_levels_run(tmp_path: Path, levels: tuple[int, ...]) -> None:
    state = random_levels(0, levels)
    for level in reversed(levels):
        save_level(tmp_path, state, level, FILES)
    found = read(tmp_path)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert METHOD.build(found, styles(1)).norms == tuple(f"level{level}.norm" for level in levels)


@pytest.mark.parametrize("name_by", [by_place, counted, as_they_are])
@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_published_shapes_load_under_every_name(
    tmp_path: Path, level: int, name_by: Callable[[State, int, str], State]
) -> None:
    """Full size, by Torch7's places, counted, or by Wang et al.'s names."""
    for half, file in zip(("encoder", "decoder"), FILES, strict=True):
        torch.save(name_by(published(level, half), level, half), tmp_path / file.format(level))
    found = read(tmp_path)
    convolutions = [name for name in found if name.endswith(".weight")]
    assert len(convolutions) == LAST[level] + len(DECODER_PLACES[level])
    last = ["conv11", "conv21", "conv31", "conv41", "conv51"][level - 1]
    widths = {1: (64, 3), 2: (128, 64), 3: (256, 128), 4: (512, 256), 5: (512, 512)}
    assert found[f"level{level}.encoder.{last}.weight"].shape[0] == widths[level][0]
    assert found[f"level{level}.decoder.{last}.weight"].shape[:2] == widths[level][::-1]
    assert found[f"level{level}.decoder.conv11.weight"].shape == (3, 64, 3, 3)


@pytest.mark.parametrize("long", [8, 4])
def test_torch7_files_load(tmp_path: Path, long: int) -> None:
    state = random_levels(0, (3, 2, 1))
    for level in (3, 2, 1):
        for half, file in zip(("encoder", "decoder"), FILES, strict=True):
            net = sequential(by_place(half_of(state, level, half), level, half), places=20)
            (tmp_path / file.format(level).replace(".pth", ".t7")).write_bytes(as_torch7(net, long))
    found = read(tmp_path)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_half_doubles_and_marks_of_training(tmp_path: Path) -> None:
    state = random_levels(0, (2,))
    for half, file, dtype in zip(("encoder", "decoder"), FILES, (torch.float16, torch.float64), strict=True):
        named = by_place(half_of(state, 2, half), 2, half)
        wrapped = {"state_dict": {f"module.{name}": tensor.to(dtype) for name, tensor in named.items()}, "epoch": 3}
        torch.save(wrapped, tmp_path / file.format(2))
    found = read(tmp_path)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert largest_difference(found["level2.encoder.conv12.weight"], state["level2.encoder.conv12.weight"]) < 1e-2


def test_a_saved_state_builds_the_same_network(tmp_path: Path) -> None:
    state = random_levels(0, (2, 1))
    save_state(tmp_path / "w.safetensors", "wct", state)
    again = METHOD.build(load_state_dict(tmp_path / "w.safetensors"), styles(5))
    assert again.weights_hash == network(2, 1).weights_hash


def broken(tmp_path: Path, change: dict[str, Tensor | None], half: str = "decoder") -> Path:
    """A level 2 whose decoder or encoder was changed; None takes a tensor away."""
    state = random_levels(0, (2,))
    save_level(tmp_path, state, 2, FILES)
    named = by_place(half_of(state, 2, half), 2, half)
    changed = {name: tensor for name, tensor in (named | change).items() if tensor is not None}
    torch.save(changed, tmp_path / FILES[half == "decoder"].format(2))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "half", "says"),
    [
        ({"5.bias": None}, "decoder", r"the decoder of level 2 of WCT, but 5\.bias is missing"),
        ({"11.weight": torch.zeros(3)}, "decoder", r"11\.weight is not part of it"),
        ({"5.weight": torch.zeros(2, 7, 3, 3)}, "decoder", r"conv12\.weight has shape \(2, 7, 3, 3\).*\(2, 2, 3, 3\)"),
        ({"5.weight": torch.zeros(2, 2, 5, 5)}, "encoder", r"conv12\.weight has shape \(2, 2, 5, 5\)"),
        ({"5.weight": torch.zeros(6)}, "encoder", "which is no convolution's"),
        ({"5.bias": torch.zeros(7)}, "encoder", r"conv12\.bias is missing or not \(2,\)"),
        ({"8.weight": torch.zeros(1, 2, 3, 3), "8.bias": torch.zeros(1)}, "decoder", "gives 1 channels, not RGB"),
        ({"12.weight": torch.zeros(4, 4, 3, 3)}, "encoder", r"12\.weight is not part"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict[str, Tensor | None], half: str, says: str) -> None:
    with pytest.raises(NetworkError, match=says) as caught:
        read(broken(tmp_path, change, half))
    assert "\n" not in str(caught.value)


def test_halves_missing_twice_and_swapped(tmp_path: Path) -> None:
    save_level(tmp_path, random_levels(0, (2,)), 2, FILES)
    encoder, decoder = (tmp_path / name.format(2) for name in FILES)
    with pytest.raises(NetworkError, match=r"level 2 of WCT has its encoder and no decoder.*feature_invertor_conv2_1"):
        METHOD.read(WeightFiles.of(encoder))
    with pytest.raises(NetworkError, match="has its decoder and no encoder"):
        METHOD.read(WeightFiles.of(decoder))
    twice = tmp_path / "vgg_normalised_conv2_1.t7"
    twice.write_bytes(encoder.read_bytes())
    with pytest.raises(NetworkError, match=r"encoder of level 2 of WCT is there 2 times: .*\.pth, .*\.t7"):
        read(tmp_path)
    twice.unlink()
    content = encoder.read_bytes()
    encoder.write_bytes(decoder.read_bytes())
    decoder.write_bytes(content)
    with pytest.raises(NetworkError, match=r"not the weights of the encoder of level 2.*look like a decoder of AdaIN"):
        read(tmp_path)


def test_another_network_or_level_under_the_name(tmp_path: Path) -> None:
    save_level(tmp_path, random_levels(0, (3,)), 3, FILES)
    for name in FILES:
        (tmp_path / name.format(3)).rename(tmp_path / name.format(2))
    with pytest.raises(NetworkError, match=r"encoder of level 2 of WCT, but 12\.weight"):
        read(tmp_path)
    torch.save({"foo.weight": torch.zeros(300)}, tmp_path / FILES[0].format(2))
    with pytest.raises(NetworkError, match=r"no known layout \(first names: foo\.weight\)"):
        read(tmp_path)


def test_other_files_are_named(tmp_path: Path) -> None:
    torch.save({"conv1.conv2d.weight": torch.zeros(300)}, tmp_path / "mosaic.pth")
    with pytest.raises(NetworkError, match=r"look like a Johnson network.*vgg_normalised_conv5_1\.t7"):
        read(tmp_path)
    (tmp_path / "mosaic.pth").write_bytes(b"\0" * 999)
    with pytest.raises(NetworkError, match=r"damaged.*files of WCT are called like"):
        read(tmp_path)


def test_a_state_that_is_no_cascade_is_refused() -> None:
    state = random_levels(0, (2, 1))
    with pytest.raises(NetworkError, match="x belongs to no level"):
        METHOD.build(state | {"x": torch.zeros(1)}, styles(1))
    with pytest.raises(NetworkError, match="belongs to no level"):
        METHOD.build({}, styles(1))
    with pytest.raises(NetworkError, match=r"level2\.decoder\.conv12\.weight is missing"):
        METHOD.build({k: v for k, v in state.items() if k != "level2.decoder.conv12.weight"}, styles(1))
    with pytest.raises(NetworkError, match=r"more is not part|more\.weight is not part"):
        METHOD.build(state | {"level1.decoder.more.weight": torch.zeros(1)}, styles(1))


def test_file_names_ignore_case() -> None:
    names = FileNames("X", r"{}SE\.\w+", r"{}SD\.\w+", "{0}SE.pth")
    files = WeightFiles((Path("3se.PTH"), Path("3SD.pth"), Path("13SE.pth")))
    assert names.of(files, 3) == {"encoder": Path("3se.PTH"), "decoder": Path("3SD.pth")}
    assert names.of(files, 2) == {}


@needs_shared
def test_laws_3_and_5_with_real_weights_on_a_real_photo() -> None:
    state = read(weights("wct"))
    net = METHOD.build(state, styles(5, side=128))
    assert net.norms == ("level3.norm", "level2.norm", "level1.norm")
    pixels = photo(131, 167)
    statistics = collect_statistics(net, pixels[::2, ::2].copy())
    frozen, exact = net.freeze(statistics), in_float64(net)
    with torch.inference_mode():
        whole = frozen(tensor(pixels))
        assert whole.std() > 0.1
        assert largest_difference(tiled(frozen, tensor(pixels), core=52), whole) < 1e-4
        assert largest_difference(net.normalise_with(statistics)(tensor(pixels)), whole) < 1e-4
        small = tensor(pixels[:48, :48], torch.float64)
        assert (
            largest_difference(exact.freeze(statistics).module(small), exact.normalise_with(statistics).module(small))
            < 1e-9
        )


@needs_shared
@pytest.mark.parametrize("level", [1, 2, 3])
def test_real_decoders_undo_real_encoders(level: int) -> None:
    """Without a style, the picture comes back: the weights are read into the right layers, in the right order."""
    files = [weights("wct") / name.format(level) for name in FILES]
    net = METHOD.build(METHOD.read(WeightFiles.of(files)), styles(5, alpha=0.0))
    image = tensor(photo(64, 96))
    with torch.inference_mode():
        again = net.freeze(collect_statistics(net, photo(64, 96)))(image)
    assert (again - image).abs().mean() < 0.05

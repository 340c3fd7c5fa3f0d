"""Windows inside a raster need no pads: the halo keeps what those invent out of every pixel that is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import symbolic_trace

from tests.networks_support import network_of, statistics_of
from tests.support import picture
from urst_tiles import plan
from urst_tiles.engines import Piece, TorchEngine, run_whole
from urst_tiles.geometry import Window, plan_tiles
from urst_tiles.networks import sample_network
from urst_tiles.networks.base import AnySizeNetwork, FrozenNetwork
from urst_tiles.networks.interior import Trim, interior, work_inside

PADS = nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ZeroPad2d


def frozen_of(name: str) -> FrozenNetwork:
    network = sample_network(name)
    return network.freeze(network.neutral_statistics)


def middle(picture: Tensor, like: Tensor) -> Tensor:
    """As much of it as the other has."""
    over, across = ((a - b) // 2 for a, b in zip(picture.shape[-2:], like.shape[-2:], strict=True))
    return picture[..., over : over + like.shape[-2], across : across + like.shape[-1]]


def pads(network: nn.Module) -> int:
    return sum(isinstance(layer, PADS) for layer in network.modules())


@pytest.mark.parametrize(
    "name", ["johnson", "adain", "microast", "msgnet", "linear-wct", "wct", "collaborative", "cyclegan"]
)
def test_no_kept_pixel_hangs_on_a_pad(name: str) -> None:
    frozen = frozen_of(name).double()  # whose roundings no cascade amplifies to a level
    inside, halo = interior(frozen), frozen.halo
    assert pads(frozen) > 0 == pads(inside)
    side = 2 * halo + 4 * frozen.stride
    given = torch.rand(
        1, 3, side, side + frozen.stride, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        one, other = frozen(given), inside(given)
    assert 0.75 * halo <= inside.trimmed <= halo
    assert all(a - 2 * inside.trimmed == b for a, b in zip(one.shape[-2:], other.shape[-2:], strict=True))
    kept = one[..., halo:-halo, halo:-halo]
    assert float(kept.std()) > 1e-3  # a picture, not a plane
    assert torch.allclose(kept, middle(other, kept), rtol=0, atol=1e-6)


def test_work_inside_is_the_share_of_the_multiplications() -> None:
    given = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 5, padding=2)).eval()
    network = AnySizeNetwork(symbolic_trace(given), halo=3, stride=1, minimum=1)
    first, second = 3 * 4 * 9, 4 * 3 * 25
    wanted = (first * 98**2 + second * 94**2) / ((first + second) * 100**2)
    assert work_inside(network, 100) == pytest.approx(wanted)
    assert work_inside(AnySizeNetwork(given, halo=3, stride=1, minimum=1), 100) == 1.0  # no graph: it is not trimmed


@pytest.mark.parametrize(("engine", "trims"), [("torch", True), ("openvino", False)])
def test_a_plans_seconds_are_of_what_is_computed(engine: Any, trims: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urst_tiles.planning.seconds_per_pixel", lambda *_, **__: 1.0)
    if engine == "openvino":
        pytest.importorskip("openvino")
    found = plan(np.zeros((400, 500, 3), np.uint8), sample_network("johnson"), engine=engine, window=152)
    network = sample_network("johnson")
    share = work_inside(network.freeze(network.neutral_statistics), 152)
    assert found.seconds is not None
    assert share < 0.9
    assert found.tiles.inside_count > 0
    less = found.tiles.inside_count * 152**2 * (1 - share)
    assert found.seconds == pytest.approx(found.tiles.window_pixels - (less if trims else 0))


def test_where_layers_are_not_known_zeros_are_all_that_pads() -> None:
    frozen = frozen_of("multimodal").double()
    inside, halo = interior(frozen), frozen.halo
    assert pads(frozen) > 0 == pads(inside) == inside.trimmed
    given = torch.rand(1, 3, 2 * halo + 8, 2 * halo + 8, dtype=torch.float64)
    kept = (..., slice(halo, -halo), slice(halo, -halo))
    with torch.inference_mode():
        assert torch.allclose(frozen(given)[kept], inside(given)[kept], rtol=0, atol=1e-6)


class Branches(nn.Module):
    """Two steps of two, over maps that are trimmed by odd numbers, and a sum of maps that are trimmed differently."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.deep = (
            nn.Conv2d(3, 4, 7, padding=3),
            nn.Conv2d(4, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 5, 1, 2),
        )
        self.short, self.pool, self.up = nn.Conv2d(4, 4, 1, 2), nn.AvgPool2d(2), nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.deep(self.down(x)) + self.short(x) + self.pool(x)
        return torch.sigmoid(self.last(self.up(y) + x))


def test_maps_that_meet_are_trimmed_alike_and_steps_meet_the_same_positions() -> None:
    torch.manual_seed(0)
    network = network_of(Branches())
    frozen = network.freeze(statistics_of(network)).double()
    inside, halo = interior(frozen), frozen.halo
    assert sum(isinstance(layer, Trim) for layer in inside.modules()) >= 2
    assert 0 < inside.trimmed < halo
    given = torch.rand(1, 3, 2 * halo + 12, 2 * halo + 16, dtype=torch.float64)
    with torch.inference_mode():
        kept = frozen(given)[..., halo:-halo, halo:-halo]
        assert torch.allclose(kept, middle(inside(given), kept), rtol=0, atol=1e-12)


@given(
    layers=st.lists(st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.booleans()), max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_any_network_of_pads_and_convolutions(layers: list[tuple[int, int, bool]], seed: int) -> None:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for kernel, step, edge in layers:
        pad: Any = nn.ReplicationPad2d if edge else nn.ReflectionPad2d
        parts += [pad(kernel // 2), nn.Conv2d(3, 3, kernel, step), nn.ReLU()]
        parts += [nn.Upsample(scale_factor=2)] if step == 2 else []
    network = network_of(*parts, nn.Conv2d(3, 3, 1))
    frozen = network.freeze(statistics_of(network)).double()
    halo, side = frozen.halo, max(2 * frozen.halo + 2 * frozen.stride, frozen.minimum)
    given = torch.rand(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        kept = frozen(given)[..., halo : side - halo, halo : side - halo]
        assert torch.allclose(kept, middle(interior(frozen)(given), kept), rtol=0, atol=1e-9)


def test_the_network_given_stays_as_it_is_and_shares_its_weights() -> None:
    frozen = frozen_of("johnson")
    before = pads(frozen)
    inside = interior(frozen)
    assert pads(frozen) == before
    assert {id(weight) for weight in inside.parameters()} == {id(weight) for weight in frozen.parameters()}


class Rounded(nn.Module):
    """No graph: it looks at its input's values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.mean()) < 2 else -x


def test_what_has_nothing_to_leave_out_is_itself() -> None:
    for network in (FrozenNetwork(Rounded(), halo=0, stride=1, minimum=1), frozen_of("identity")):
        assert interior(network) is network


@pytest.mark.parametrize(
    ("pad", "layer"),
    [
        (nn.ReflectionPad2d((1, 2, 1, 1)), nn.Conv2d(3, 3, (3, 4))),  # as wide as a convolution pads on one side only
        (nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 5, padding=1)),  # which pads already
        (nn.ReflectionPad2d(1), nn.MaxPool2d(3, 1)),
    ],
)
def test_other_pads_stay(pad: nn.Module, layer: nn.Module) -> None:
    network = FrozenNetwork(torch.fx.symbolic_trace(nn.Sequential(pad, layer)), halo=3, stride=1, minimum=4)
    inside, given = interior(network), torch.rand(1, 3, 12, 14)
    assert pads(inside) == 1
    with torch.inference_mode():
        kept = network(given)[..., 3:-3, 3:-3]
        assert torch.equal(kept, middle(inside(given), kept))


def test_a_pad_that_two_read_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad, self.one, self.two = nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.pad(x)
            return self.one(y) + self.two(y)  # type: ignore[no-any-return]

    network = FrozenNetwork(torch.fx.symbolic_trace(Both()), halo=1, stride=1, minimum=2)
    assert interior(network) is network


def test_a_rim_is_what_lies_around_a_cell_whatever_a_region_keeps_of_it() -> None:
    whole = plan_tiles(1000, 700, window=168, halo=24, stride=4)
    part = plan_tiles(1000, 700, window=168, halo=24, stride=4, region=Window(60, 70, 500, 300))
    rims = {tile.cell: tile.rim for shard in whole for tile in shard.tiles}
    for cell, rim in rims.items():
        at_a_border = cell.col_off == 0 or cell.row_off == 0 or cell.col_end > 1000 - 24 or cell.row_end > 700 - 24
        assert (rim < 24) == at_a_border
    assert all(tile.rim == rims[tile.cell] for shard in part for tile in shard.tiles)
    assert any(tile.rim < 24 < tile.crop.col_off and tile.crop.row_off > 24 for shard in part for tile in shard.tiles)


def test_the_engine_pads_at_the_borders_alone_and_never_by_what_a_window_is_run_with() -> None:
    """One batch of both kinds, of one size."""
    frozen = frozen_of("johnson")
    halo, side = frozen.halo, 2 * frozen.halo + 24
    engine, window = TorchEngine(frozen, device="cpu"), picture(side, side)
    whole = run_whole(engine, window[None])[0]
    kept = (slice(halo, -halo), slice(halo, -halo))
    wanted = whole[(slice(None), *kept)]

    def made(rims: list[int]) -> list[Any]:
        pieces = [Piece(window, np.empty_like(wanted), kept, rim) for rim in rims]
        taken: list[int] = []
        engine.run(pieces, lambda: taken.append(1))
        assert taken == [1]
        return [piece.place for piece in pieces]

    rims = [halo, 0, halo + 8, halo - 1]
    together, alone = made(rims), [made([rim])[0] for rim in rims]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one, other)
        assert int(np.abs(one.astype(int) - wanted).max()) <= 1
    assert set(engine._networks) == {(False, False), (False, True)}
    assert pads(engine._networks[False, True]) == 0

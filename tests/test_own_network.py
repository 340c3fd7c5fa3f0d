"""A network of one's own with instance norms, of a shape that the package has never seen: three lines wrap it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn

from tests.networks_support import in_float64, largest_difference, statistics_of, tensor, tiled
from tests.support import picture, write_tiff
from urst_tiles import StyleNetwork, collect_statistics, stylize
from urst_tiles.errors import NetworkError


class UNet(nn.Module):
    """Two levels down and up with skip connections: average pooling, a pixel shuffle, a transposed and a dilated
    convolution, norms before and after them, an activation with weights."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 5, padding=2, padding_mode="reflect"), nn.InstanceNorm2d(width))
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.PReLU(2 * width))
        self.norm = nn.InstanceNorm2d(2 * width, affine=True)
        self.deep = nn.Sequential(
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, padding_mode="replicate"),
            nn.SiLU(),
            nn.ReplicationPad2d(2),
            nn.Conv2d(4 * width, 4 * width, 3, dilation=2, groups=2),
            nn.InstanceNorm2d(4 * width),
        )
        self.up = nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1)
        self.shuffle = nn.Sequential(nn.Conv2d(4 * width, 4 * width, 1), nn.PixelShuffle(2), nn.InstanceNorm2d(width))
        self.last = nn.Conv2d(2 * width, 3, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        full = torch.relu(self.first(2 * x - 1))
        half = self.norm(self.down(full))
        up = torch.tanh(self.up(self.deep(half)))
        merged = self.shuffle(torch.cat([up, half], dim=1))
        y: Tensor = torch.sigmoid(self.last(torch.cat([merged, full], dim=1)))
        return y


def own() -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return UNet()


def test_three_lines_wrap_it_and_tiled_equals_whole(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(157, 203))
    network = StyleNetwork("my-unet", own())
    stylize(source, tmp_path / "out.zarr", network=network, window=96)
    found = np.asarray(zarr.open_group(tmp_path / "out.zarr", mode="r")["0"][...])  # type: ignore[index]
    pixels = picture(157, 203)
    with torch.inference_mode():
        whole = network.freeze(collect_statistics(network, pixels))(tensor(pixels))[0]
    expected = (whole * 255).round().byte().numpy()
    assert expected.std() > 10
    assert np.abs(found.astype(int) - expected).max() <= 1  # a value may lie on the edge between two grey levels
    assert (found != expected).mean() < 1e-3


def test_its_halo_is_derived_and_tight() -> None:
    network = in_float64(StyleNetwork("my-unet", own()))
    assert network.stride == 4
    frozen, image = network.freeze(statistics_of(network)), tensor(picture(121, 139), torch.float64)
    with torch.inference_mode():
        whole = frozen(image)
        assert largest_difference(tiled(frozen, image, core=32), whole) < 1e-12
        assert largest_difference(tiled(frozen, image, core=32, halo=network.halo - 4), whole) > 1e-9


def test_its_frozen_form_is_torchs_own_network_when_the_thumbnail_is_the_image() -> None:
    network = in_float64(StyleNetwork("my-unet", own()))
    pixels = picture(64, 88)
    with torch.inference_mode():
        expected = network.module(tensor(pixels, torch.float64))
        found = network.freeze(collect_statistics(network, pixels))(tensor(pixels, torch.float64))
    assert largest_difference(found, expected) < 1e-9


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.GroupNorm(1, 3), "group_norm"),
        (nn.AdaptiveAvgPool2d(1), "mean|adaptive_avg_pool"),
        (nn.Softmax(2), "softmax"),
    ],
)
def test_what_looks_at_the_whole_image_is_refused_by_name(layer: nn.Module, named: str) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x * self.layer(x)
            return y

    with pytest.raises(NetworkError, match=named):
        _ = StyleNetwork("whole", Whole()).halo

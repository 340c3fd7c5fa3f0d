"""Memory and arithmetic told from the graph: by hand on small networks, and against what a process really takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from tests.networks_support import statistics_of
from urst_tiles.networks import load_network, multiply_adds, parameter_bytes, peak_activation_bytes
from urst_tiles.networks.footprint import FIXED, FRAGMENTS, Footprint
from urst_tiles.networks.normalization import ChannelAffine
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import Statistics


class Chain(nn.Module):
    """conv to 8 channels, in-place ReLU, pad, conv to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu_(self.first(x)))
        return y


def sums(module: nn.Module, side: int) -> list[int]:
    """Bytes alive at each step."""
    return [sum(each.bytes(side, side) for each in step.alive) for step in Footprint.of(module).steps]


def test_live_maps_are_summed_by_hand() -> None:
    image, low, result = 3 * 100 * 100 * 4, 8 * 50 * 50 * 4, 3 * 100 * 100 * 4
    # image · convolution · in-place ReLU adds nothing · transposed convolution, with the image held by the caller
    assert sums(Chain(), 100) == [image, image + low, image + low, image + low + result]


def test_a_map_read_twice_stays_alive() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = self.conv(x)
            y: Tensor = a + self.conv(self.conv(a))
            return y

    one = 3 * 64 * 64 * 4
    assert sums(Residual(), 64) == [one, 2 * one, 3 * one, 4 * one, 4 * one]


def test_views_add_nothing_and_weights_are_not_maps() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.affine = ChannelAffine(torch.ones(3), torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.affine(x)[..., 1:-1, 1:-1]
            return y.clamp(0, 1)

    image = 3 * 64 * 64 * 4
    assert sums(Views(), 64)[-1] == 2 * image + 3 * 62 * 62 * 4
    assert max(sums(Views(), 64)) == 2 * image + 3 * 62 * 62 * 4


def test_the_estimate_is_the_largest_sum_and_the_documented_terms() -> None:
    peak = max(sums(Chain(), 100))
    assert peak_activation_bytes(Chain(), 100, 100) == peak + int(FRAGMENTS * peak) + FIXED
    assert peak_activation_bytes(Chain(), 100, 100, fragments=False) == peak + FIXED
    batch = peak_activation_bytes(Chain(), 100, 100, batch=3)
    assert batch == 3 * peak + int(FRAGMENTS * 3 * peak) + FIXED


def test_sizes_grow_to_the_stride_as_the_network_grows_them() -> None:
    network = untrained(width=2)
    frozen = Footprint.of(network.freeze(statistics_of(network)))
    assert frozen.peak_activation_bytes(61, 63) == frozen.peak_activation_bytes(64, 64)
    assert frozen.peak_activation_bytes(1, 1) == frozen.peak_activation_bytes(8, 8)
    assert frozen.peak_activation_bytes(64, 128) < frozen.peak_activation_bytes(128, 128)


def test_multiplications_by_hand() -> None:
    # 3x3 over 3 channels for 8 at a quarter of the pixels, then 2x2 from 8 channels to 3 once per low-resolution pixel
    assert multiply_adds(Chain(), 100, 60) == 50 * 30 * (3 * 9 * 8) + 50 * 30 * (8 * 3 * 4)
    grouped = nn.Conv2d(3, 6, 3, padding=1, groups=3)
    assert multiply_adds(nn.Sequential(grouped, nn.Conv2d(6, 3, 1)), 10, 10) == 100 * (6 * 9 + 18)


def test_johnson_takes_the_multiplications_that_are_published() -> None:
    """32-64-128 channels and five blocks: 174 G at 1064 x 1064, by the layers' own numbers."""
    pixels = 1064 * 1064
    full, half, quarter = 3 * 32 * 81 + 64 * 32 * 9 + 32 * 3 * 81, 32 * 64 * 9 + 128 * 64 * 9, 64 * 128 * 9
    by_hand = pixels * full + pixels // 4 * half + pixels // 16 * (quarter + 10 * 128 * 128 * 9)
    assert multiply_adds(untrained(width=32).module, 1064, 1064) == by_hand


def test_bytes_of_weights() -> None:
    assert parameter_bytes(nn.Conv2d(3, 8, 3)) == (3 * 8 * 9 + 8) * 4
    assert parameter_bytes(load_network("identity").module) == 0
    assert peak_activation_bytes(load_network("identity").freeze(Statistics({})), 10, 10) >= 2 * 3 * 100 * 4


def test_freezing_takes_fewer_bytes_than_the_network_as_it_is() -> None:
    network = untrained(width=8)
    frozen = network.freeze(statistics_of(network))
    assert max(sums(frozen, 512)) < 0.8 * max(sums(network.module, 512))


def test_a_network_of_other_layers_at_other_sizes_is_refused() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return self.conv(y) if x.shape[-1] > 1000 else y

    with pytest.raises(Exception, match="other operations at other sizes"):
        Footprint.of(Grows())


MEASURE = """
import json
import numpy as np
import torch
from urst_tiles.networks.footprint import Footprint
from urst_tiles.networks.untrained import untrained
from urst_tiles.statistics import Moments, Statistics

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

torch.set_num_threads(1)
network = untrained(width=WIDTH)
layers = {}
for name in network.norms:
    channels = network.module.get_submodule(name).num_features
    layers[name] = Moments(1, np.zeros(channels), np.ones(channels))
frozen = network.freeze(Statistics(layers))
footprint = Footprint.of(frozen)
alive = max(sum(each.bytes(SIDE, SIDE) for each in step.alive) for step in footprint.steps)
with torch.inference_mode():
    frozen(torch.rand(1, 3, 16, 16))
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    before = status("VmRSS")
    for _ in range(4):
        frozen(torch.rand(1, 3, SIDE, SIDE))
print(json.dumps([alive, footprint.peak_activation_bytes(SIDE, SIDE), status("VmHWM") - before]))
"""


def measured(width: int, side: int, **environment: str) -> tuple[int, int, int]:
    """(bytes alive by the graph, estimate, growth of a fresh process)."""
    code = MEASURE.replace("WIDTH", str(width)).replace("SIDE", str(side))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if "clear_refs" in done.stderr:
        pytest.skip("the peak of a process cannot be reset here")
    alive, estimate, growth = json.loads(done.stdout)
    return alive, estimate, growth


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


@linux_only
def test_a_process_takes_what_is_alive_where_freed_memory_goes_back() -> None:
    alive, _, growth = measured(8, 1064, MALLOC_MMAP_THRESHOLD_="1048576")
    assert 0.95 * alive <= growth <= alive + FIXED


@linux_only
def test_a_process_stays_under_the_estimate() -> None:
    # Maps of both kinds, of which the small ones leave holes: how many is the allocator's to say, from run to run.
    alive, estimate, growth = measured(16, 1064)
    assert 0.95 * alive <= growth <= estimate <= 2.2 * alive

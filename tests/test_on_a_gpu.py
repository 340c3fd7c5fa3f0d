"""What only a GPU can show: its pixels, its memory and its streams. Without one, nothing here runs.

With ``pytest -n``, set OMP_NUM_THREADS: each process takes all of the machine's cores for a thumbnail otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tests.support import picture, write_tiff
from urst_tiles import collect_statistics, plan, stylize
from urst_tiles.engines import Piece, TorchEngine, run_whole
from urst_tiles.engines.compiling import check_compiler
from urst_tiles.engines.devices import CONTEXT, limit_bytes, release_cache
from urst_tiles.errors import DeviceMemoryError, InputError, RunStopped
from urst_tiles.networks import sample_network
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.untrained import untrained
from urst_tiles.styles import DEFAULT_STYLE, load_style

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

CUDA = "cuda"
METHODS = ["johnson", "adain", "microast", "msgnet", "linear-wct"]


@pytest.fixture(autouse=True)
def _no_limit_stays() -> Iterator[None]:
    yield
    limit_bytes(torch.device(CUDA, 0), None)
    release_cache(torch.device(CUDA, 0))


def frozen_of(network: StyleNetwork) -> FrozenNetwork:
    return network.freeze(collect_statistics(network, picture(128, 160)))


def windows(count: int, height: int, width: int, dtype: str = "uint8") -> Any:
    return np.stack([picture(height, width, dtype=dtype, seed=seed) for seed in range(count)])


def off(found: Any, wanted: Any) -> Any:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return np.abs(found.astype(int) - wanted.astype(int))


def inside(engine: TorchEngine, given: Any, halo: int) -> Any:
    """What is kept of windows inside a raster."""
    height, width = given.shape[1:3]
    made = np.empty((len(given), 3, height - 2 * halo, width - 2 * halo), given.dtype)
    crop = (slice(halo, height - halo), slice(halo, width - halo))
    engine.run([Piece(window, place, crop, halo) for window, place in zip(given, made, strict=True)])
    return made


# ---- pixels


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_float32_gives_the_cpus_pixels_to_a_level(name: str, dtype: str) -> None:
    network = sample_network(name)
    frozen = frozen_of(network)
    given = windows(2, 2 * frozen.halo + 37, 2 * frozen.halo + 64, dtype)
    wanted = run_whole(TorchEngine(frozen_of(network), device="cpu"), given)
    assert int(wanted.max()) - int(wanted.min()) > 50  # a picture, not a plane
    engine, allowed = TorchEngine(frozen, device=CUDA), 1 if dtype == "uint8" else 257
    assert off(run_whole(engine, given), wanted).max() <= allowed
    halo = frozen.halo
    assert off(inside(engine, given, halo), wanted[..., halo:-halo, halo:-halo]).max() <= allowed


def test_tf32_is_off_by_little_with_the_shipped_style() -> None:
    network = load_style(DEFAULT_STYLE)
    given = windows(2, 400, 416)
    exact, found = (
        run_whole(TorchEngine(frozen_of(network), device=CUDA, precision=each), given) for each in ("float32", "tf32")
    )
    assert off(found, exact).max() > 0
    assert np.quantile(off(found, exact), 0.999) <= 2


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_16_bits_are_off_by_no_more_than_on_a_cpu(precision: Any) -> None:
    network = load_style(DEFAULT_STYLE)
    given = windows(2, 400, 416)

    def made(device: str, precision: Any) -> Any:
        return run_whole(TorchEngine(frozen_of(network), device=device, precision=precision), given)

    exact = made(CUDA, "float32")
    ours, theirs = (off(made(device, precision), exact).mean() for device in (CUDA, "cpu"))
    assert 0 < ours <= 1.5 * theirs


def test_the_same_windows_give_the_same_bytes_each_time() -> None:
    engine = TorchEngine(frozen_of(untrained(width=16)), device=CUDA)
    given = windows(3, 320, 336)
    first = run_whole(engine, given)
    assert all(np.array_equal(run_whole(engine, given), first) for _ in range(5))


def test_threads_get_their_own_windows_back() -> None:
    frozen = frozen_of(untrained(width=8))
    engine = TorchEngine(frozen, device=CUDA)
    given = [windows(1 + number % 4, 240 + 4 * (number % 5), 256)[::-1] for number in range(24)]
    wanted = [inside(engine, each, frozen.halo) for each in given]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            found = list(pool.map(lambda each: inside(engine, each, frozen.halo), given))
            assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_two_engines_of_a_process_keep_their_precisions_apart() -> None:
    network = load_style(DEFAULT_STYLE)
    given = windows(1, 320, 320)
    engines = [TorchEngine(frozen_of(network), device=CUDA, precision=each) for each in ("float32", "tf32")]
    wanted = [run_whole(each, given) for each in engines]
    assert not np.array_equal(wanted[0], wanted[1])
    found: list[tuple[int, Any]] = []

    def call(number: int) -> None:
        found.append((number % 2, run_whole(engines[number % 2], given)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(24)))
    assert all(np.array_equal(made, wanted[which]) for which, made in found)


def test_compiled_layers_give_the_same_pixels() -> None:
    try:
        check_compiler(torch.device(CUDA))
    except InputError as error:
        pytest.skip(str(error))
    network = load_style(DEFAULT_STYLE)
    halo, given = network.halo, windows(2, 304, 320)
    exact = TorchEngine(frozen_of(network), device=CUDA)
    compiled = TorchEngine(frozen_of(network), device=CUDA, compile=True)
    assert off(run_whole(compiled, given), run_whole(exact, given)).max() <= 1
    assert off(inside(compiled, given, halo), inside(exact, given, halo)).max() <= 1


# ---- memory


def test_a_batch_that_does_not_fit_is_run_in_parts() -> None:
    frozen = frozen_of(untrained(width=32))
    halo, given = frozen.halo, windows(4, 640, 640)
    wanted = inside(TorchEngine(frozen_of(untrained(width=32)), device=CUDA), given, halo)
    release_cache(torch.device(CUDA, 0))
    engine = TorchEngine(frozen, device=CUDA, device_memory=CONTEXT + 400 * 2**20)
    found = inside(engine, given, halo)
    assert engine.limit in (1, 2)
    assert off(found, wanted).max() <= 1


def test_a_window_that_does_not_fit_is_said_in_one_line() -> None:
    engine = TorchEngine(frozen_of(untrained(width=32)), device=CUDA, device_memory=CONTEXT + 48 * 2**20)
    with pytest.raises(DeviceMemoryError, match="one window of 1000 x 1000 px does not fit into the memory of cuda"):
        run_whole(engine, windows(1, 1000, 1000))


@pytest.mark.parametrize("name", ["johnson", "adain", "style"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_estimate_holds(name: str, precision: Any, tmp_path: Path) -> None:
    network = load_style(DEFAULT_STYLE) if name == "style" else sample_network(name)
    raster = write_tiff(tmp_path / "in.tif", picture(2600, 2300))
    torch.cuda.reset_peak_memory_stats()
    report = stylize(raster, tmp_path / "out.zarr", network=network, device=CUDA, precision=precision, thumbnail=128)
    planned = plan(raster, network, device=CUDA, precision=precision, time_it=False).memory.device
    assert planned is not None
    assert report.device_peak is not None
    assert report.device_peak <= planned.bytes - CONTEXT


def test_a_budget_is_kept(tmp_path: Path) -> None:
    network = load_style(DEFAULT_STYLE)
    raster = write_tiff(tmp_path / "in.tif", picture(2200, 2100))
    budget = 1300 * 2**20
    torch.cuda.reset_peak_memory_stats()
    report = stylize(raster, tmp_path / "out.zarr", network=network, device=CUDA, device_memory=budget, thumbnail=128)
    assert report.device_peak is not None
    assert report.device_peak + CONTEXT <= budget


# ---- runs


def level(path: Path) -> Any:
    return np.asarray(zarr.open_array(path / "0", mode="r")[:])


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint8"), (4, "uint8"), (1, "uint16")])
def test_a_tiled_run_is_the_whole_picture(bands: int, dtype: str, tmp_path: Path) -> None:
    network = load_style(DEFAULT_STYLE)
    given = picture(700, 830, bands=bands, dtype=dtype)
    options: dict[str, Any] = {"network": network, "thumbnail": 128, "device": CUDA}
    stylize(write_tiff(tmp_path / "in.tif", given), tmp_path / "tiled.zarr", window=304, **options)
    stylize(tmp_path / "in.tif", tmp_path / "whole.zarr", window=1064, **options)
    stylize(tmp_path / "in.tif", tmp_path / "cpu.zarr", window=304, **(options | {"device": "cpu"}))
    tiled, allowed = level(tmp_path / "tiled.zarr"), 1 if dtype == "uint8" else 257
    assert tiled.std() > 5
    assert off(tiled, level(tmp_path / "whole.zarr")).max() <= allowed
    assert off(tiled, level(tmp_path / "cpu.zarr")).max() <= allowed


def test_a_region_and_a_run_that_was_stopped_have_the_same_bytes(tmp_path: Path) -> None:
    network = load_style(DEFAULT_STYLE)
    raster = write_tiff(tmp_path / "in.tif", picture(900, 1000))
    options: dict[str, Any] = {"network": network, "thumbnail": 128, "device": CUDA, "window": 304}
    stylize(raster, tmp_path / "whole.zarr", **options)
    whole, asked = level(tmp_path / "whole.zarr"), count()
    with pytest.raises(RunStopped):
        stylize(raster, tmp_path / "stopped.zarr", stop=lambda: next(asked) > 8, **options)
    stylize(raster, tmp_path / "stopped.zarr", **options)
    assert np.array_equal(level(tmp_path / "stopped.zarr"), whole)
    stylize(raster, tmp_path / "region.zarr", region=(130, 150, 555, 444), **options)
    assert np.array_equal(level(tmp_path / "region.zarr"), whole[:, 150 : 150 + 444, 130 : 130 + 555])


def test_several_processes_share_a_gpu(tmp_path: Path) -> None:
    network = load_style(DEFAULT_STYLE)
    raster = write_tiff(tmp_path / "in.tif", picture(900, 1000))
    options: dict[str, Any] = {"network": network, "thumbnail": 128, "device": CUDA, "window": 304}
    stylize(raster, tmp_path / "one.zarr", **options)
    stylize(raster, tmp_path / "two.zarr", workers=2, **options)
    assert np.array_equal(level(tmp_path / "one.zarr"), level(tmp_path / "two.zarr"))


def test_the_bus_and_the_network_overlap() -> None:
    """While one batch is computed the next one arrives: the computing stream never waits for both."""
    frozen = frozen_of(untrained(width=16))
    engine = TorchEngine(frozen, device=CUDA)
    given = windows(2, 512, 512)
    inside(engine, given, frozen.halo)
    barrier = threading.Barrier(2)

    def call(_: int) -> Any:
        barrier.wait(30)
        return inside(engine, given, frozen.halo)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(4):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(call, range(2)))
    spans: dict[str, list[tuple[float, float]]] = {"copy": [], "kernel": []}
    for event in profile.events() or ():
        kind = "copy" if event.name.startswith("Memcpy") else "kernel"
        spans[kind].append((event.time_range.start, event.time_range.end))
    overlaps = sum(a < d and c < b for a, b in spans["copy"] for c, d in spans["kernel"])
    assert overlaps > 0

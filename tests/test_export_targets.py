"""Any format can be a run's target: written from the store when that is whole, and what does not fit is said before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from tests.support import left_in, picture, write_tiff
from urst_tiles import load_network, plan, stylize
from urst_tiles.errors import InputError, RunStopped, StoreError
from urst_tiles.events import Event, PhaseProgress, PhaseStarted

IDENTITY = load_network("identity")


def decoded(path: Path) -> NDArray[Any]:
    return np.asarray(pyvips.Image.new_from_file(str(path)).numpy())


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".cog.tif", ".png"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_lossless_targets_return_every_byte(tmp_path: Path, suffix: str, dtype: str) -> None:
    pixels = picture(90, 130, dtype=dtype)
    source = write_tiff(tmp_path / "in.tif", pixels)
    report = stylize(source, tmp_path / f"out{suffix}", network=IDENTITY, window=16)
    np.testing.assert_array_equal(decoded(Path(report.target)), pixels)
    assert left_in(tmp_path) == ["in.tif", f"out{suffix}"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_targets_are_near(tmp_path: Path, suffix: str) -> None:
    smooth = np.asarray(pyvips.Image.new_from_array(picture(90, 130)).gaussblur(2).cast("uchar").numpy())
    source = write_tiff(tmp_path / "in.tif", smooth)
    report = stylize(source, tmp_path / f"out{suffix}", network=IDENTITY, window=16)
    assert np.abs(decoded(Path(report.target)).astype(int) - smooth).mean() < 4
    assert left_in(tmp_path) == ["in.tif", f"out{suffix}"]


def test_deep_zoom_is_a_target_and_the_store_can_stay(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(90, 130))
    stylize(source, tmp_path / "out.dzi", network=IDENTITY, window=16, keep_store=True)
    assert left_in(tmp_path) == ["in.tif", "out.dzi", "out.dzi.zarr", "out_files"]


def test_what_a_format_cannot_hold_is_said_before_the_start(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 50, bands=4))
    events: list[Event] = []
    with pytest.raises(InputError, match="alpha"):
        stylize(source, tmp_path / "out.jpg", network=IDENTITY, window=16, callbacks=[events.append])
    with pytest.raises(InputError, match="alpha"):
        plan(source, IDENTITY, target=tmp_path / "out.jpg", time_it=False)
    assert not events
    assert left_in(tmp_path) == ["in.tif"]


def test_somebody_elses_tiles_are_not_replaced(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 50))
    (tmp_path / "out_files").mkdir()
    events: list[Event] = []
    with pytest.raises(StoreError, match="out_files"):
        stylize(source, tmp_path / "out.dzi", network=IDENTITY, window=16, callbacks=[events.append])
    assert not events


def test_sixteen_bits_in_a_jpeg_are_noted(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 50, dtype="uint16"))
    report = stylize(source, tmp_path / "out.jpg", network=IDENTITY, window=16)
    assert any("8 bit" in note for note in report.notes)


def test_no_format_by_that_name(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(40, 50))
    with pytest.raises(InputError, match=r"out\.xyz names no format: end it in one of \.zarr"):
        stylize(source, tmp_path / "out.xyz", network=IDENTITY)


@pytest.mark.parametrize("suffix", [".dzi", ".png", ".cog.tif"])
def test_an_export_that_was_stopped_goes_on(tmp_path: Path, suffix: str) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    seen: list[Event] = []

    def stop() -> bool:
        return any(isinstance(event, PhaseProgress) and event.name == "export" for event in seen)

    target = tmp_path / f"out{suffix}"
    with pytest.raises(RunStopped, match=r"\d+ of \d+ parts of the .* were written"):
        stylize(source, target, network=IDENTITY, window=32, callbacks=[seen.append], stop=stop)
    assert not target.exists()
    again: list[Event] = []
    report = stylize(source, target, network=IDENTITY, window=32, callbacks=[again.append])
    assert report.shards == 0
    assert PhaseStarted("export") in again
    stylize(source, tmp_path / f"calm{suffix}", network=IDENTITY, window=32)
    assert target.read_bytes() == (tmp_path / f"calm{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".tif", ".cog.tif"])
@pytest.mark.parametrize("kind", ["scale", "matrix"])
def test_where_a_raster_lies_on_the_earth_survives_a_run(tmp_path: Path, suffix: str, kind: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.transform.from_origin(120000.5, 487000.25, 0.5, 0.25)
    if kind == "matrix":
        place = place @ rasterio.Affine.rotation(30)
    source, pixels = tmp_path / "in.tif", picture(90, 130)
    with rasterio.open(
        source, "w", driver="GTiff", height=90, width=130, count=3, dtype="uint8", crs="EPSG:28992", transform=place
    ) as raster:
        raster.write(pixels.transpose(2, 0, 1))
    target, region = tmp_path / f"out{suffix}", (40, 30, 60, 50)
    stylize(source, target, network=load_network("identity"), window=16, region=region)
    assert any("geo tags" in note for note in plan(source, IDENTITY, target="out.jpg", time_it=False).notes)
    with rasterio.open(target) as raster:
        assert raster.crs.to_epsg() == 28992
        assert raster.transform.almost_equals(place @ rasterio.Affine.translation(40, 30), 1e-9)
        np.testing.assert_array_equal(raster.read(), pixels[30:80, 40:100].transpose(2, 0, 1))

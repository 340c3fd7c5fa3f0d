"""PNG, JPEG and WebP as Pillow and libvips read them, and their limits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.stores_support import finished_store, layout_for
from tests.support import left_in
from urst_tiles.errors import InputError, StoreError
from urst_tiles.exporting import export
from urst_tiles.stores import OmeZarrStore, StoreLayout, exporter_for
from urst_tiles.stores.colour import as_8_bit
from urst_tiles.stores.exporter import ExportOptions

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@settings(max_examples=10, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    bands=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    memory=st.sampled_from([1, 5_000, 10**9]),
)
def test_a_png_is_exact(
    width: int, height: int, bands: Literal[3, 4], dtype: Literal["uint8", "uint16"], memory: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, pixels = finished_store(Path(folder) / "a.zarr", layout_for(width, height, bands, dtype))
        export(store, Path(folder) / "a.png", memory=memory)
        read = pyvips.Image.new_from_file(f"{folder}/a.png").numpy()
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, pixels.transpose(1, 2, 0))
        if dtype == "uint8":
            with Image.open(f"{folder}/a.png") as shown:
                np.testing.assert_array_equal(np.asarray(shown), pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_lossy_picture_is_close_and_the_right_way_up(
    tmp_path: Path, name: str, dtype: Literal["uint8", "uint16"]
) -> None:
    layout = layout_for(150, 90, 3, dtype, chunk=32)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    y, x = np.mgrid[0:90, 0:150]
    shades = np.stack([x * 255 / 149, y * 255 / 89, 128 + 0 * x]) * (1 if dtype == "uint8" else 257)
    write_and_halve(store, shades.round().astype(dtype))
    report = export(store, tmp_path / name, quality=95)
    with Image.open(tmp_path / name) as shown:
        assert shown.size == (150, 90)
        difference = np.abs(
            np.asarray(shown).astype(float) - shades.transpose(1, 2, 0) / (257 if dtype == "uint16" else 1)
        )
    assert difference.mean() < 1.5
    assert difference.max() < 12
    assert bool(report.notes) == (dtype == "uint16")


def write_and_halve(store: OmeZarrStore, pixels: Any) -> None:
    from tests.stores_support import write_level
    from urst_tiles.stores import build_pyramid

    write_level(store, pixels)
    build_pyramid(store)


def test_16_bit_is_rounded_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16)
    exact = values / 257
    assert np.abs(as_8_bit(values) - exact).max() <= 0.5
    assert as_8_bit(values)[[0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_profile_and_resolution_are_kept(tmp_path: Path, name: str) -> None:
    layout = layout_for(50, 40, icc_profile=PROFILE, resolution=(11.811, 23.622))
    store, _ = finished_store(tmp_path / "a.zarr", layout)
    export(store, tmp_path / name)
    with Image.open(tmp_path / name) as shown:
        assert shown.info["icc_profile"] == PROFILE
        if name == "a.png":
            assert shown.info["dpi"] == pytest.approx((300, 600), rel=1e-3)
        else:
            exif = shown.getexif()
            assert (float(exif[282]), float(exif[283])) == pytest.approx((300, 600), rel=1e-3)
            assert exif[296] == 2  # dots per inch


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_nothing_is_made_up(tmp_path: Path, name: str) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(50, 40))
    export(store, tmp_path / name)
    with Image.open(tmp_path / name) as shown:
        assert not {"dpi", "icc_profile", "exif"} & shown.info.keys()
        if name == "a.png":
            np.testing.assert_array_equal(np.asarray(shown), pixels.transpose(1, 2, 0))


def test_a_damaged_profile_is_left_out_and_said_so(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 40, icc_profile=b"no profile" * 30))
    report = export(store, tmp_path / "a.png")
    assert report.notes == ("the ICC profile is damaged or not one of RGB: it is left out",)
    with Image.open(tmp_path / "a.png") as shown:
        assert "icc_profile" not in shown.info


@pytest.mark.parametrize(
    ("name", "width", "height", "limit"),
    [("a.jpg", 65_501, 10, "65,500"), ("a.jpeg", 10, 65_501, "65,500"), ("a.webp", 16_384, 5, "16,383")],
)
def test_a_picture_too_large_is_refused(name: str, width: int, height: int, limit: str) -> None:
    layout = StoreLayout(width, height, 3, "uint8", 64, (64, 64))
    with pytest.raises(InputError, match=rf"at most {limit}\. Take a TIFF \(\.tif\)"):
        exporter_for(name).check(layout, ExportOptions())


@pytest.mark.parametrize(("name", "width"), [("a.jpg", 65_500), ("a.webp", 16_383)])
def test_the_limits_are_the_encoders(tmp_path: Path, name: str, width: int) -> None:
    store = OmeZarrStore.create(tmp_path / "a.zarr", StoreLayout(width, 2, 3, "uint8", 1024, (2048, 4096)))
    write_and_halve(store, np.full((3, 2, width), 77, np.uint8))
    export(store, tmp_path / name)
    assert pyvips.Image.new_from_file(str(tmp_path / name)).width == width


def test_jpeg_refuses_alpha_before_anything_is_written(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(50, 40, 4))
    with pytest.raises(InputError, match=r"has alpha and JPEG has none\. Take PNG"):
        export(store, tmp_path / "a.jpg")
    assert left_in(tmp_path) == ["a.zarr"]


def test_a_shard_that_breaks_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(100, 200))
    shard = tmp_path / "a.zarr/0/c/0/4/1"
    shard.write_bytes(shard.read_bytes()[:-30] + bytes(30))
    with pytest.raises(StoreError, match="cannot be read"):
        export(store, tmp_path / "a.png", memory=1)
    assert left_in(tmp_path) == ["a.zarr"]

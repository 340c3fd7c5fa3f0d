"""Photos and crops."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import picture
from tests.training_support import photo_folder, write_photo
from urst_tiles.errors import InputError
from urst_tiles.sources.pictures import read_rgb
from urst_tiles.training.data import CropSampler, PhotoFolder, cut
from urst_tiles.training.painting import median_filtered, read_painting


def test_crops_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos")
    one, other = (CropSampler(PhotoFolder(folder), crop=32, batch=2, seed=7, noise=0.02) for _ in range(2))
    other.batch(0)
    a, b = one.batch(5), other.batch(5)
    assert a.place == b.place
    torch.testing.assert_close(a.thumbnail, b.thumbnail, rtol=0, atol=0)
    torch.testing.assert_close(a.patch, b.patch, rtol=0, atol=0)
    assert not torch.equal(a.patch, one.batch(6).patch)
    assert not torch.equal(a.patch, CropSampler(PhotoFolder(folder), crop=32, batch=2, seed=8).batch(5).patch)


def test_a_crop_comes_with_its_thumbnail_and_a_patch(tmp_path: Path) -> None:
    batch = CropSampler(PhotoFolder(photo_folder(tmp_path / "photos")), crop=32, batch=2, seed=0).batch(0)
    assert batch.thumbnail.shape == batch.patch.shape == (2, 3, 16, 16)
    assert (batch.place.width, batch.place.height) == (16, 16)
    assert batch.place.col_off % 2 == batch.place.row_off % 2 == 0
    # The thumbnail's part where the patch lies is the patch, shrunk.
    row, col = batch.place.row_off // 2, batch.place.col_off // 2
    torch.testing.assert_close(
        batch.thumbnail[..., row : row + 8, col : col + 8], torch.nn.functional.avg_pool2d(batch.patch, 2)
    )


def test_cut_reaches_every_edge() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[-1, -1] = 255
    assert float(cut(pixels, 16, 0.0, 0.9999, 0.9999)[0, 0, -1, -1]) == 1.0
    assert cut(pixels, 16, 0.9999, 0.5, 0.5).shape == (1, 3, 16, 16)
    assert cut(pixels, 64, 0.5, 0.5, 0.5).shape == (1, 3, 64, 64)  # a small photo is enlarged


def test_a_corrupt_photo_is_skipped_with_a_warning_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = photo_folder(tmp_path / "photos", count=2)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no photo")
    told: list[tuple[Path, str]] = []
    photos = PhotoFolder(folder, on_skip=lambda path, reason: told.append((path, reason)))
    sampler = CropSampler(photos, crop=32, batch=4, seed=0)
    with caplog.at_level(logging.WARNING, "urst_tiles"):
        for step in range(6):
            sampler.batch(step)
    assert list(photos.skipped) == [folder / "broken.jpg"]
    assert [path for path, _ in told] == [folder / "broken.jpg"]
    assert "broken.jpg is left out" in caplog.text


def test_flat_crops_are_left_out(tmp_path: Path) -> None:
    half = picture(64, 128)
    half[:, :64] = 90
    write_photo(tmp_path / "half.tif", half)
    sampler = CropSampler(PhotoFolder(tmp_path), crop=32, batch=1, seed=0)
    for step in range(12):
        assert float(sampler.batch(step).thumbnail.mean(1).std()) > 0.005
    write_photo(tmp_path / "half.tif", np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(InputError, match="are blank"):
        CropSampler(PhotoFolder(tmp_path), crop=32, batch=1, seed=0).batch(0)


def test_folders_without_photos_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photos"):
        PhotoFolder(tmp_path)
    (tmp_path / "MANIFEST.tsv").write_text("no photo")
    with pytest.raises(InputError, match="holds no photos"):
        PhotoFolder(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        PhotoFolder(tmp_path / "absent")
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match="nothing is left to train on"):
        PhotoFolder(tmp_path, hold_out=1)
    with pytest.raises(InputError, match="none of the 1 photos"):
        CropSampler(PhotoFolder(tmp_path), crop=32, batch=1, seed=0).batch(0)


def test_held_out_photos_are_not_trained_on(tmp_path: Path) -> None:
    photos = PhotoFolder(photo_folder(tmp_path / "photos", count=5), hold_out=2)
    assert len(photos.held_out) == 2
    assert len(photos.paths) == 3
    assert not set(photos.held_out) & set(photos.paths)


def test_photos_past_the_memory_are_forgotten_and_read_again(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", count=3, side=64)
    small, large = PhotoFolder(folder, memory=1), PhotoFolder(folder)
    for path in (*small.paths, *small.paths):
        one, other = small.read(path), large.read(path)
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)
    assert len(small._kept) == 1


def test_grey_alpha_and_16_bit_become_rgb(tmp_path: Path) -> None:
    import tifffile

    grey = picture(40, 50, bands=1)
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.tif", 100), np.stack([grey] * 3, -1))
    deep = picture(40, 50, dtype="uint16")
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.tif", 100), np.round(deep / 257).astype(np.uint8))
    alpha = picture(40, 50, bands=4)
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    assert read_rgb(tmp_path / "alpha.tif", 100).shape == (40, 50, 3)


def test_a_painting_is_shrunk_and_enlarged(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "painting.tif", picture(60, 90))
    assert read_painting(path, 30).shape == (1, 3, 30, 45)
    assert read_painting(path, 120, median=3).shape == (1, 3, 120, 180)


def test_the_median_takes_specks_and_leaves_edges() -> None:
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10:] = 1
    specked = image.clone()
    specked[..., 5, 5] = 1
    torch.testing.assert_close(median_filtered(specked, 3), image)
    by_hand = np.median(np.pad(specked[0, 0].numpy(), 2, mode="reflect")[3:8, 4:9])
    assert float(median_filtered(specked, 5)[0, 0, 3, 4]) == by_hand

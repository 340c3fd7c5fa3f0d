"""Masks that a TIFF holds of itself, as GDAL writes them: what they hide is transparent, as behind a mask in a file."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.sources_support import assert_mean_of_areas, one_line, peak_growth_of, picture, tiled_tiff, windows
from urst_tiles import Window, load_network, stylize
from urst_tiles.cli import main
from urst_tiles.engines import Piece, TorchEngine
from urst_tiles.errors import SourceError
from urst_tiles.estimating import store_layout
from urst_tiles.geometry import plan_tiles
from urst_tiles.networks.untrained import untrained
from urst_tiles.options import RunOptions
from urst_tiles.preparing import open_raster
from urst_tiles.running import freeze_for
from urst_tiles.shards import process_shard
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.masked import Masked, MaskedSource
from urst_tiles.sources.spool import spool, spool_bytes
from urst_tiles.stores import OmeZarrStore

Values = NDArray[Any]
IDENTITY = load_network("identity")
HEIGHT, WIDTH = 150, 210


def disc(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """What is valid: a disc left of the middle, so that no turn of it is itself."""
    y, x = np.mgrid[:height, :width]
    valid: NDArray[np.bool_] = (y / height - 0.45) ** 2 + (x / width - 0.4) ** 2 < 0.1
    return valid


def whole(source: Source) -> Values:
    return source.read(Window(0, 0, source.info.width, source.info.height))


def with_mask(path: Path, pixels: Values, *masks: Values, reduced: Sequence[Values] = (), **options: Any) -> Path:
    """A tiled TIFF of (height, width, bands), its smaller levels and masks: pages of 1 bit where they are truths, else
    of their own type. tifffile writes only masks of 1 bit as such: what kind of page it is is put in afterwards."""
    kind: dict[str, Any] = {"photometric": "rgb" if pixels.shape[2] > 2 else "minisblack", "tile": (32, 32)}
    if pixels.shape[2] in (2, 4):
        kind["extrasamples"] = ["unassalpha"]
    kind |= options.pop("raster", {})
    photometric, options = options.pop("photometric", 4), {"tile": (32, 32)} | options
    with tifffile.TiffWriter(path) as tif:
        for level, values in enumerate((pixels, *reduced)):
            values = values[..., 0] if values.shape[2] == 1 else values
            tif.write(values, metadata=None, subfiletype=1 if level else 0, **kind)
        for mask in masks:
            tif.write(mask, photometric="minisblack", metadata=None, subfiletype=2, **options)
    for page, mask in enumerate(masks, 1 + len(reduced)):
        put(path, page, 254, 5 if mask.shape != masks[0].shape else 4)
        put(path, page, 262, photometric)
    return path


def put(path: Path, page: int, tag: int, value: Any) -> None:
    """Another value of a tag that is there."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[page].aspage().tags[tag].overwrite(value)


def by_gdal(path: Path, pixels: Values, mask: Values, *, overviews: Sequence[int] = (), **profile: Any) -> Path:
    """The same, written by GDAL."""
    rasterio = pytest.importorskip("rasterio")
    height, width, bands = pixels.shape
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64} | profile
    if bands == 3:
        profile["photometric"] = "RGB"
    made: dict[str, Any] = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": pixels.dtype}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        with rasterio.open(path, "w", **made, **profile) as file:
            file.write(pixels.transpose(2, 0, 1))
            file.write_mask(mask)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews(list(overviews), rasterio.enums.Resampling.average)
    return path


def valid_by_gdal(path: Path, **options: Any) -> Values:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(path, **options) as file:
        mask: Values = file.dataset_mask()
        return mask


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("bands", "dtype", "profile"),
    [
        (3, "uint8", {}),
        (1, "uint8", {"compress": "deflate"}),
        (3, "uint16", {"compress": "lzw"}),
        (3, "uint8", {"tiled": False, "blockxsize": None, "blockysize": None}),
        (3, "uint8", {"interleave": "band"}),
        (3, "uint8", {"compress": "zstd", "bigtiff": "YES"}),
    ],
    ids=["tiles", "grey", "16bit", "strips", "bands apart", "zstd"],
)
def test_what_gdal_writes_is_what_gdal_says(tmp_path: Path, bands: int, dtype: str, profile: dict[str, Any]) -> None:
    """Full size and every level, whoever reads the raster: libvips, or tifffile what libvips does not."""
    pixels = picture(HEIGHT, WIDTH, bands, dtype)
    kept = {name: value for name, value in profile.items() if value is not None}
    path = by_gdal(tmp_path / "a.tif", pixels, disc(), overviews=(2, 4), **kept)
    source, top = open_source(path), np.iinfo(dtype).max
    assert source.info.alpha
    assert isinstance(source, Masked)
    assert not any("images" in note or "pictures" in note for note in source.info.notes)
    found = whole(source)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., -1], disc() * top)
    np.testing.assert_array_equal(found[..., -1] == top, valid_by_gdal(path) == 255)
    np.testing.assert_array_equal(found[disc(), :bands], pixels[disc()])
    assert source.info.levels == ((105, 75), (53, 38))
    for level in (1, 2):
        smaller = open_source(path, level=level)
        valid = valid_by_gdal(path, overview_level=level - 1)
        assert valid.shape == (smaller.info.height, smaller.info.width)
        np.testing.assert_array_equal(whole(smaller)[..., -1], valid.astype(dtype) * (top // 255))
        assert 0 < np.count_nonzero(valid) < valid.size


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mask_of_8_bit_is_what_gdal_says(tmp_path: Path) -> None:
    mask = picture(HEIGHT, WIDTH, 1)[..., 0]
    path = with_mask(tmp_path / "a.tif", picture(HEIGHT, WIDTH, 3), mask)
    np.testing.assert_array_equal(whole(open_source(path))[..., 3], valid_by_gdal(path))


@pytest.mark.parametrize("photometric", [1, 4])
@pytest.mark.parametrize("compression", [None, "packbits", "lzw", "deflate"])
@pytest.mark.parametrize("layout", [{"tile": (16, 48)}, {"tile": None, "rowsperstrip": 7}], ids=["tiles", "strips"])
@pytest.mark.parametrize("bits", [1, 8])
def test_any_window_of_any_mask(
    tmp_path: Path, bits: int, layout: dict[str, Any], compression: str | None, photometric: int
) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    soft = picture(HEIGHT, WIDTH, 1, seed=4)[..., 0] * valid
    mask, alpha = (valid, valid * np.uint8(255)) if bits == 1 else (soft, soft)
    options: Any = {"photometric": photometric, "compression": compression, **layout}
    source = open_source(with_mask(tmp_path / "a.tif", pixels, mask, **options))
    assert isinstance(source, Masked)
    for window in windows(WIDTH, HEIGHT, 20):
        found = source.read(window)
        np.testing.assert_array_equal(found[..., 3], alpha[window.slices])
        assert source.visible(window) == alpha[window.slices].any()
        if alpha[window.slices].any():
            np.testing.assert_array_equal(found[..., :3], pixels[window.slices])
        else:
            assert not found.any()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_grey_raster_and_a_mask_that_looks_like_it(tmp_path: Path, compression: str) -> None:
    """Both 8 bit, tiled alike, and said to be grey: only the kind of page tells them apart. No level is a mask."""
    pixels, mask = picture(HEIGHT, WIDTH, 1), picture(HEIGHT, WIDTH, 1, seed=5)[..., 0]
    same: Any = {"photometric": 1, "compression": compression, "raster": {"compression": compression}}
    small = mask[::2, ::2]
    source = open_source(with_mask(tmp_path / "a.tif", pixels, mask, small, **same))
    assert (source.info.bands, source.info.levels) == (2, ())
    assert not any("images" in note or "pictures" in note for note in source.info.notes)
    np.testing.assert_array_equal(whole(source), np.dstack([pixels, mask]))
    level = pixels[::2, ::2]
    source = open_source(with_mask(tmp_path / "b.tif", pixels, mask, small, reduced=[level], **same), level=1)
    np.testing.assert_array_equal(whole(source), np.dstack([level, small]))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_small_mask_is_no_level(tmp_path: Path, compression: str) -> None:
    same: Any = {"photometric": 1, "compression": compression, "raster": {"compression": compression}}
    path = with_mask(tmp_path / "a.tif", picture(HEIGHT, WIDTH, 1), picture(75, 105, 1)[..., 0], **same)
    note, source = without(path)
    assert source.info.levels == ()
    assert "only of 105 x 75" in note


def test_hidden_windows_are_neither_read_nor_made(tmp_path: Path) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    source = open_source(with_mask(tmp_path / "a.tif", pixels, valid))
    assert isinstance(source, MaskedSource)
    raster, read = source.raster, list[Window]()

    class Watched:
        info, name = raster.info, raster.name

        def __getattr__(self, name: str) -> Any:
            return getattr(raster, name)

        def read(self, window: Window) -> Any:
            read.append(window)
            return raster.read(window)

    source.raster = Watched()
    plan = plan_tiles(WIDTH, HEIGHT, halo=0, stride=1, window=8)
    store = OmeZarrStore.create(tmp_path / "a.zarr", store_layout(source.info, plan))
    ran = list[int]()

    class Counting(TorchEngine):
        def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
            ran.append(len(pieces))
            super().run(pieces, on_taken)

    engine = Counting(IDENTITY.freeze(IDENTITY.neutral_statistics), device="cpu")
    reports = [process_shard(shard, source, engine, store, batch=4) for shard in plan]
    tiles = [tile for shard in plan for tile in shard.tiles]
    assert sum(ran) == sum(bool(valid[tile.core.slices].any()) for tile in tiles) < len(tiles)
    assert [report.empty for report in reports] == [not valid[shard.core.slices].any() for shard in plan]
    assert any(report.empty for report in reports)
    assert read == [shard.window for shard in plan if valid[shard.core.slices].any()]


@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_an_identity_run_gives_back_what_is_valid_and_the_mask_as_alpha(tmp_path: Path, layout: str) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    pixels[~valid] = 77
    raster: Any = {} if layout == "tiles" else {"tile": None, "rowsperstrip": 5}
    path = with_mask(tmp_path / "a.tif", pixels, valid, raster=raster)
    report = stylize(path, tmp_path / "out.tif", network=IDENTITY, window=16)
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(found[..., 3], valid * 255)
    np.testing.assert_array_equal(found[valid, :3], pixels[valid])
    assert report.shards_empty > 0
    assert any("own mask" in note for note in report.notes)


def test_a_mask_that_is_unpacked_with_its_raster(tmp_path: Path) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    path = with_mask(tmp_path / "a.tif", pixels, valid, raster={"tile": None, "rowsperstrip": 5})
    source = open_source(path)
    assert not source.info.random_access
    readable = spool(source, tmp_path / "spool")
    assert readable.info.random_access
    assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) <= spool_bytes(source)
    assert (readable.info.notes, readable.fingerprint()) == (source.info.notes, source.fingerprint())
    np.testing.assert_array_equal(whole(readable)[..., 3], valid * 255)
    np.testing.assert_array_equal(readable.thumbnail(40), source.thumbnail(40))


def test_a_mask_in_a_file_and_alpha_multiply_with_it(tmp_path: Path) -> None:
    pixels, valid, other = picture(HEIGHT, WIDTH, 4), disc(), picture(HEIGHT, WIDTH, 1, seed=9)[..., 0]
    other[:, 80:] = 0
    path = with_mask(tmp_path / "a.tif", pixels, valid)
    own = open_source(path)
    np.testing.assert_array_equal(whole(own)[..., 3], pixels[..., 3] * valid)
    assert any("multiplied" in note for note in own.info.notes)
    source = open_raster(path, RunOptions(mask=other))
    assert isinstance(source, Masked)
    product = (pixels[..., 3].astype(int) * valid * other * 2 + 255) // 510
    np.testing.assert_array_equal(whole(source)[..., 3], product)
    for window in windows(WIDTH, HEIGHT, 30, seed=3):
        both = bool(other[window.slices].any() and valid[window.slices].any())
        assert source.visible(window) == both
    # The mask that is given has no say in the statistics, the file's own has.
    np.testing.assert_array_equal(source.thumbnail(50), own.thumbnail(50))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_raster_is(tmp_path: Path, orientation: int) -> None:
    """Against a file that has the same as alpha."""
    pixels, mask = picture(HEIGHT, WIDTH, 3), picture(HEIGHT, WIDTH, 1, seed=6)[..., 0]
    extra: Any = [(274, "H", 1, orientation, True)]
    path = with_mask(
        tmp_path / "a.tif", pixels, mask, mask[::2, ::2], reduced=[pixels[::2, ::2]], raster={"extratags": extra}
    )
    plain = tiled_tiff(tmp_path / "b.tif", np.dstack([pixels, mask]), tile=32, extratags=extra)
    source, wanted = open_source(path), open_source(plain)
    assert source.info.orientation == orientation
    assert (source.info.width, source.info.height) == (wanted.info.width, wanted.info.height)
    for window in windows(source.info.width, source.info.height, 10):
        np.testing.assert_array_equal(source.read(window), wanted.read(window))
    np.testing.assert_array_equal(source.thumbnail(100)[..., 3], wanted.thumbnail(100)[..., 3])
    smaller = tiled_tiff(tmp_path / "c.tif", np.dstack([pixels, mask])[::2, ::2], tile=32, extratags=extra)
    np.testing.assert_array_equal(whole(open_source(path, level=1)), whole(open_source(smaller)))
    np.testing.assert_array_equal(source.thumbnail(20)[..., 3], open_source(smaller).thumbnail(20)[..., 3])


def test_a_thumbnail_has_the_mean_of_the_mask(tmp_path: Path) -> None:
    pixels, mask = picture(HEIGHT, WIDTH, 3, "uint16"), picture(HEIGHT, WIDTH, 1)[..., 0]
    found = open_source(with_mask(tmp_path / "a.tif", pixels, mask)).thumbnail(50)
    assert found.shape == (50, 70, 4)
    assert found.dtype == np.uint16
    assert (found[..., 3] % 257 == 0).all()
    assert_mean_of_areas((found[..., 3:] // 257).astype(np.uint8), mask[..., None])
    assert_mean_of_areas(found[..., :3].copy(), pixels)


def test_what_is_not_valid_is_not_measured(tmp_path: Path) -> None:
    network, hashes = untrained(width=8, seed=1), set[str]()
    for hidden in (0, 255):
        pixels = picture(HEIGHT, WIDTH, 3)
        pixels[~disc()] = hidden
        source = open_source(with_mask(tmp_path / f"{hidden}.tif", pixels, disc()))
        hashes.add(freeze_for(source, network, None, 60)[1].hash())
    assert len(hashes) == 1


def test_facts_pickles_and_fingerprints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    path = with_mask(tmp_path / "a.tif", pixels, valid, raster={"resolution": (300, 300)})
    source = open_source(path)
    info = source.info
    assert (info.bands, info.alpha, info.tile, info.resolution) == (4, True, (32, 32), (300 / 25.4, 300 / 25.4))
    assert info.format == "tiff with a mask of its own"
    assert info.notes == ("The file's own mask is taken for alpha.",)
    assert source.name == str(path)
    again = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 10_000
    np.testing.assert_array_equal(whole(again), whole(source))
    assert json.loads(json.dumps(source.fingerprint())) == source.fingerprint() == again.fingerprint()
    before = source.fingerprint()
    os.utime(path, (1, 1))
    assert open_source(path).fingerprint() != before
    main(["info", str(path)])
    said = capsys.readouterr().out
    assert "tiff with a mask of its own" in said
    assert "RGB and alpha" in said
    assert "own mask is taken for alpha" in said
    main(["info", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["alpha"] is True


@pytest.mark.parametrize("apart", [False, True])
def test_a_mask_behind_a_url(tmp_path: Path, apart: bool) -> None:
    pixels, valid = picture(HEIGHT, WIDTH, 3), disc()
    raster: Any = {"planarconfig": "separate"} if apart else {}
    given = pixels.transpose(2, 0, 1) if apart else pixels
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(given, photometric="rgb", tile=(32, 32), metadata=None, **raster)
        tif.write(valid, photometric="minisblack", subfiletype=4, tile=(32, 32), metadata=None)
    fsspec.filesystem("memory").pipe_file("/internal-masks/a.tif", path.read_bytes())
    source = open_source("memory://internal-masks/a.tif")
    np.testing.assert_array_equal(whole(source)[valid], np.dstack([pixels, valid * np.uint8(255)])[valid])
    assert not whole(source)[~valid, 3].any()
    assert whole(pickle.loads(pickle.dumps(source))).any()


def test_tiles_of_a_mask_that_were_never_written_hide(tmp_path: Path) -> None:
    path = with_mask(tmp_path / "a.tif", picture(HEIGHT, WIDTH, 3), np.ones((HEIGHT, WIDTH), np.bool_))
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[1].aspage()
        lists = {324: list(page.dataoffsets), 325: list(page.databytecounts)}
    for tag, numbers in lists.items():
        put(path, 1, tag, [0, *numbers[1:]])
    found = whole(open_source(path))[..., 3]
    assert not found[:32, :32].any()
    assert (found[32:] == 255).all()
    assert (found[:, 32:] == 255).all()


def without(path: Path, **choice: Any) -> tuple[str, Source]:
    """The one note, and the source, which is there without the mask."""
    source = open_source(path, **choice)
    assert not source.info.alpha
    assert not isinstance(source, Masked)
    (note,) = source.info.notes
    assert one_line(note)
    assert note.count(". ") == 0
    assert note.endswith(".")
    assert "mask is not used" in note
    return note, source


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_masks_that_do_not_fit_are_not_used_and_said(tmp_path: Path, compression: str) -> None:
    pixels, path = picture(HEIGHT, WIDTH, 3), tmp_path / "a.tif"
    raster: Any = {"compression": compression}
    note, source = without(with_mask(path, pixels, disc(100, 120), raster=raster))
    assert "210 x 150" in note
    assert "120 x 100" in note
    np.testing.assert_array_equal(whole(source), pixels)
    deep = with_mask(path, pixels, picture(HEIGHT, WIDTH, 1, "uint16")[..., 0], raster=raster)
    assert "1 bands of 16 bits" in without(deep)[0]
    coloured = with_mask(path, pixels, picture(HEIGHT, WIDTH, 1)[..., 0], photometric=3, raster=raster)
    assert "no levels of grey" in without(coloured)[0]


def test_damaged_masks_are_not_used_and_said(tmp_path: Path) -> None:
    pixels, path = picture(HEIGHT, WIDTH, 3), tmp_path / "a.tif"
    with_mask(path, pixels, disc(), compression="deflate")
    put(path, 1, 259, 4711)
    note, source = without(path)
    assert "4711" in note
    np.testing.assert_array_equal(whole(source), pixels)
    with_mask(path, pixels, disc(), compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offsets = list(tif.pages[1].aspage().dataoffsets)
    put(path, 1, 324, [*offsets[:-1], 0xFFFFFF00])
    assert "behind the file's end" in without(path)[0]
    with_mask(path, pixels, disc())
    put(path, 1, 322, 16)  # the width of a tile
    assert "35 tiles or strips of 70" in without(path)[0]


def test_a_mask_whose_pixels_are_damaged_is_one_line(tmp_path: Path) -> None:
    path = with_mask(tmp_path / "a.tif", picture(HEIGHT, WIDTH, 3), disc(), compression="deflate")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[1].aspage()
        start, count = page.dataoffsets[8], page.databytecounts[8]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes([0xA5]) * count)
    source = open_source(path)
    assert source.read(Window(96, 64, 10, 10))[..., 3].all()
    with pytest.raises(SourceError, match="the mask in ") as raised:
        whole(source)
    assert one_line(str(raised.value))


def test_a_level_without_a_mask_is_read_without_and_says_so(tmp_path: Path) -> None:
    pixels = picture(HEIGHT, WIDTH, 3)
    path = with_mask(tmp_path / "a.tif", pixels, disc(), reduced=[pixels[::2, ::2]])
    assert whole(open_source(path)).shape[2] == 4
    assert open_source(path).thumbnail(20).shape == (20, 28, 4)
    note, source = without(path, level=1)
    assert "105 x 75" in note
    assert "210 x 150" in note
    np.testing.assert_array_equal(whole(source), pixels[::2, ::2])


def test_other_images_are_still_counted(tmp_path: Path) -> None:
    pixels, path = picture(HEIGHT, WIDTH, 3), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in (pixels, disc(), picture(50, 60, 3)):
            kind: Any = {"subfiletype": 4} if page.dtype == np.bool_ else {"photometric": "rgb", "tile": (32, 32)}
            tif.write(page, metadata=None, **kind)
    source = open_source(path)
    assert source.info.alpha
    assert any("holds 2 images" in note for note in source.info.notes)


@pytest.mark.parametrize("damage", ["no pixels", "cut off"])
def test_a_page_that_is_no_picture_is_no_mask(tmp_path: Path, damage: str) -> None:
    """It says that it is a mask, and nothing else that makes sense."""
    path, pixels = tmp_path / "a.tif", picture(HEIGHT, WIDTH, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), metadata=None)
    with tifffile.TiffFile(path) as tif:
        first = tif.pages.first
        link = first.offset + 2 + 12 * len(first.tags)
    page = struct.pack("<H", 3)
    for tag, value in ((254, 4), (256, WIDTH), (257, HEIGHT)):
        page += struct.pack("<HHII", tag, 4, 1, value)
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(page[:20] if damage == "cut off" else page + bytes(4))
        file.seek(link)
        file.write(struct.pack("<I", end))
    source = open_source(path)
    assert not source.info.alpha
    np.testing.assert_array_equal(whole(source), pixels)
    if damage == "no pixels":
        assert "0 tiles or strips of 1" in without(path)[0]


def test_memory_of_a_masked_read_stays_below_what_is_said(tmp_path: Path) -> None:
    side = 4000
    path, mask = tmp_path / "a.tif", np.zeros((side, side), np.bool_)
    mask[1000:] = np.random.default_rng(0).random((3000, side)) < 0.5
    pixels = np.broadcast_to(picture(16, side, 3)[:1], (side, side, 3))
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, photometric="rgb", tile=(256, 256), metadata=None, compression="deflate")
        tif.write(mask, photometric="minisblack", subfiletype=4, rowsperstrip=512, metadata=None, compression="deflate")
    code = (
        "from urst_tiles.geometry import Window\n"
        "from urst_tiles.sources import open_source\n"
        f"source = open_source({str(path)!r})\n"
        "source.read(Window(0, 0, 64, 64))\n"
        "started()\n"
        "pixels = source.read(Window(100, 900, 2500, 2500))\n"
        "assert pixels.nbytes == 2500 * 2500 * 4\n"
    )
    said = open_source(path).cache_bytes(2500)
    assert peak_growth_of(code) < said + 2500 * 2500 * 4
    assert said < 400 << 20

"""Files that lie, break off or never end: one clear line, in bounded time and memory, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec

from tests.sources_support import one_line, picture
from tests.support import left_in
from urst_tiles import load_network, stylize
from urst_tiles.errors import SourceError, UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.sources import open_source

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and pipes as Linux has them")


def in_a_cage(code: str, *, seconds: int = 60, gib: float = 2.5) -> str:
    """What code prints that runs in a process of its own with little memory."""
    script = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({int(gib * 2**30)},) * 2)\n{code}\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=seconds, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


READ = """
from urst_tiles.errors import UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.sources import open_source
for path in {paths!r}:
    try:
        source = open_source(path)
        print(source.info.width, source.info.height)
        source.read(Window(0, 0, 64, 64))
    except UrstTilesError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 700, str(error)
        print("SAID", error)
"""
STYLIZE = """
from urst_tiles import load_network, stylize
from urst_tiles.errors import UrstTilesError
for path in {paths!r}:
    try:
        stylize(path, path + ".out.tif", network=load_network("identity"))
    except UrstTilesError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 700, str(error)
        print("SAID", error)
"""


def deflated_zeros(mebibytes: int) -> bytes:
    """A zlib stream of so many: one block of 16 MiB, over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\xda" + block * (mebibytes // 16) + b"\x03\x00"


@pytest.mark.parametrize("compression", ["none", "deflate", "jpeg"])
def test_a_file_cut_off_anywhere_gives_right_bytes_or_one_line(tmp_path: Path, compression: str) -> None:
    pixels = picture(128, 192, 3)
    path, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression=compression)
    data = path.read_bytes()
    whole = open_source(path).read(Window(0, 0, 192, 128))
    refused = 0
    for length in range(1, len(data), 1024):
        cut.write_bytes(data[:length])
        try:
            source = open_source(cut)
            np.testing.assert_array_equal(source.read(Window(0, 0, 192, 128)), whole)
        except SourceError as error:
            refused += 1
            assert one_line(str(error))  # noqa: PT017
    assert refused >= len(data) // 1024 - 1  # the last pixels are needed


def test_nothing_stands_under_the_targets_name(tmp_path: Path) -> None:
    path, target = tmp_path / "a.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, picture(128, 192, 3), photometric="rgb", tile=(64, 64))
    data = path.read_bytes()
    for length in (100, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:length])
        with pytest.raises(UrstTilesError) as caught:
            stylize(path, target, network=load_network("identity"))
        assert one_line(str(caught.value))
        assert not target.exists()
        assert all(name == "a.tif" or ".partial" in name for name in left_in(tmp_path))


@pytest.mark.parametrize("place", range(0, 400, 8))
def test_a_header_with_one_byte_wrong_is_read_or_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(64, 96, 3), photometric="rgb", tile=(32, 32), compression="deflate")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(place)
    for at in range(place, place + 8):
        for value in (0, 255, int(rng.integers(256))):
            changed = data.copy()
            changed[at] = value
            path.write_bytes(changed)
            try:
                source = open_source(path)
                if source.info.pixels <= 1 << 20:
                    source.read(Window(0, 0, source.info.width, source.info.height))
            except UrstTilesError as error:
                assert one_line(str(error))  # noqa: PT017


@needs_linux
def test_a_header_that_claims_a_huge_raster_takes_no_memory(tmp_path: Path) -> None:
    sizes = ((10**9, 10**9), (99_000_000, 64), (10**6, 10**6))
    for width, height in sizes:
        path = tmp_path / f"{width}.tif"
        tifffile.imwrite(path, picture(64, 64, 1)[..., 0], tile=(64, 64), bigtiff=True)
        with tifffile.TiffFile(path, mode="r+") as tif:
            tags = tif.pages.first.tags
            for name, value in (("ImageWidth", width), ("ImageLength", height)):
                tags[name].overwrite(value, dtype="I")
    said = in_a_cage(STYLIZE.format(paths=[str(path) for path in sorted(tmp_path.iterdir())]))
    assert said.count("SAID") == len(sizes), said
    assert not list(tmp_path.glob("*.out.tif"))


@needs_linux
def test_what_unpacks_to_much_is_not_held_in_memory(tmp_path: Path) -> None:
    paths = [str(make(tmp_path)) for make in (png_bomb, tile_bomb, apart_bomb, lying_chunk, short_chunk)]
    said = in_a_cage(READ.format(paths=paths)).splitlines()
    assert said[0] == "30000 30000"
    assert "Spool it" in said[1]
    assert said[2].startswith(("64 64", "SAID"))
    assert sum("SAID" in line and ".zarr" in line for line in said) == 2, said
    assert sum(path in line for path in paths for line in said) >= 3


def png_bomb(folder: Path) -> Path:
    """900 megapixels in less than a megabyte."""
    side, rows = 30_000, zlib.compressobj(9)
    row = bytes(1 + side)
    body = b"".join(rows.compress(row * 1000) for _ in range(side // 1000)) + rows.flush()
    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    path = folder / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
            for kind, data in chunks
        )
    )
    assert path.stat().st_size < 1 << 20
    return path


def tile_bomb(folder: Path, *, apart: bool = False) -> Path:
    """Tiles of 64 x 64 pixels that unpack to 4 GiB."""
    path = folder / f"bomb{apart}.tif"
    pixels = np.zeros((3, 64, 64) if apart else (64, 64, 3), np.uint8)
    kind: Any = "separate" if apart else "contig"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="deflate", planarconfig=kind)
    body, where = deflated_zeros(4096), path.stat().st_size
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        for name, value in (("TileOffsets", where), ("TileByteCounts", len(body))):
            tags[name].overwrite([value] * tags[name].count, dtype="I")
    with path.open("ab") as file:
        file.write(body)
    return path


def apart_bomb(folder: Path) -> Path:
    return tile_bomb(folder, apart=True)


def lying_chunk(folder: Path, *, short: bool = False) -> Path:
    """A chunk whose header says that it unpacks to 2 GiB; or one that breaks off after the header."""
    path = folder / f"{short}.zarr"
    zarr.create_array(path, data=picture(64, 64, 3), chunks=(64, 64, 3), compressors=BloscCodec())
    chunk = path / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[4:8] = (2**31 - 17).to_bytes(4, "little")  # uncompressed size
    chunk.write_bytes(data[:20] if short else data)
    return path


def short_chunk(folder: Path) -> Path:
    return lying_chunk(folder, short=True)


def test_chunks_that_are_missing_are_the_fill_value_and_broken_ones_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    pixels = picture(64, 96, 3)
    zarr.create_array(path, data=pixels, chunks=(32, 32, 3), fill_value=9)
    (path / "c" / "0" / "1" / "0").unlink()
    pixels[:32, 32:64] = 9
    np.testing.assert_array_equal(open_source(path).read(Window(0, 0, 96, 64)), pixels)
    chunk = path / "c" / "1" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(SourceError, match="cannot read columns") as caught:
        open_source(path).read(Window(0, 0, 96, 64))
    assert one_line(str(caught.value))


@pytest.mark.parametrize("where", ["../secret", "../../secret", "/secret", "a/../../secret", "..", ""])
def test_metadata_cannot_lead_out_of_the_store(tmp_path: Path, where: str) -> None:
    zarr.create_array(tmp_path / "secret", data=np.full((8, 8), 7, np.uint8))
    group = zarr.create_group(tmp_path / "a.zarr")
    axes: Any = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": where}]}]
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "a.zarr")
    assert one_line(str(caught.value))


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": 5},
        {"multiscales": [{"datasets": [{"path": "0"}] * 3, "axes": [{"name": "y"}]}]},
        {"multiscales": [{"datasets": [], "axes": []}]},
        {"multiscales": [{"datasets": [{"path": "0"}], "axes": [{"name": "yx"}, {"name": "y"}]}]},
        {"omero": {"channels": [{"window": {"min": "a", "max": 1}}]}, "multiscales": [{"datasets": [{"path": "0"}]}]},
        {"omero": {"channels": 7}, "multiscales": [{"datasets": [{"path": "0"}]}]},
        {"ome": 3},
    ],
    ids=str,
)
def test_metadata_that_make_no_sense_are_one_line(tmp_path: Path, attributes: dict[str, Any]) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", data=np.zeros((8, 8), np.uint8))
    group.attrs.update(attributes)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "a.zarr")
    assert one_line(str(caught.value))


@needs_linux
def test_what_is_no_raster_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("Dear Sir or Madam\n" * 100)
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    (tmp_path / "nowhere.tif").symlink_to(tmp_path / "gone.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "zip.png").write_bytes(b"PK\x03\x04" + bytes(500))
    for name in left_in(tmp_path):
        with pytest.raises(SourceError, match=name) as caught:
            open_source(tmp_path / name)
        assert one_line(str(caught.value))
    for path in ("/dev/zero", "a\0b.tif", "x" * 5000):
        with pytest.raises(SourceError):
            open_source(path)


def test_the_command_line_says_a_truncated_tiff_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, np.zeros((300, 300, 3), np.uint8), metadata=None)
    # The directory is said to stand far behind the end.
    (tmp_path / "cut.tif").write_bytes(b"II*\x00" + (10**6).to_bytes(4, "little") + whole.read_bytes()[8:5000])
    command = [sys.executable, "-m", "urst_tiles", "info", str(tmp_path / "cut.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot open")
    assert done.stderr.count("\n") == 1

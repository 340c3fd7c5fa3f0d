"""TIFFs whose headers libtiff complains of, and whose pixels are all there; and the same with pixels missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.sources_support import one_line, picture
from urst_tiles import load_network, stylize
from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources import Source, open_source
from urst_tiles.sources.tiff import TiffSource

Fault = Literal["null byte", "tags out of order", "orientation of 0"]
FAULTS: tuple[Fault, ...] = ("null byte", "tags out of order", "orientation of 0")
HEIGHT, WIDTH = 150, 90


def faulty(path: Path, fault: Fault, *, tile: tuple[int, int] | None, compression: str | None) -> NDArray[Any]:
    """A TIFF in strips of 16 rows, or in tiles, and its pixels."""
    pixels = picture(HEIGHT, WIDTH, 3)
    layout: dict[str, Any] = {"rowsperstrip": 16} if tile is None else {"tile": tile}
    tags: dict[Fault, Any] = {
        "null byte": [(305, "s", 0, b"Scan\0ner\0", True)],
        "orientation of 0": [(274, "H", 1, 0, True)],
    }
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        compression=compression,
        metadata=None,
        software=False,
        extratags=tags.get(fault, ()),
        **layout,
    )
    if fault == "tags out of order":
        data = bytearray(path.read_bytes())
        (start,) = struct.unpack("<I", data[4:8])
        (count,) = struct.unpack("<H", data[start : start + 2])
        last = start + 2 + 12 * (count - 2)
        data[last : last + 24] = data[last + 12 : last + 24] + data[last : last + 12]
        path.write_bytes(data)
    return pixels


def whole(source: Source) -> NDArray[Any]:
    return source.read(Window(0, 0, source.info.width, source.info.height))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_a_header_that_is_complained_of_keeps_nobody_from_the_pixels(
    tmp_path: Path, fault: Fault, tile: tuple[int, int] | None, compression: str | None
) -> None:
    pixels = faulty(tmp_path / "a.tif", fault, tile=tile, compression=compression)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, TiffSource) == (fault == "orientation of 0" and tile is None)
    assert source.info.orientation == 1
    np.testing.assert_array_equal(whole(source), pixels)
    assert source.thumbnail(20).shape[1] == 20


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("damage", ["cut off", "half a strip", "no strip"])
def test_pixels_that_are_missing_behind_such_a_header_are_never_made_up(
    tmp_path: Path, fault: Fault, tile: tuple[int, int] | None, compression: str | None, damage: str
) -> None:
    path = tmp_path / "a.tif"
    faulty(path, fault, tile=tile, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tif:
        page = tif.pages.first
        counts = list(page.databytecounts)
        end = page.dataoffsets[-1] + 3
        if damage != "cut off":
            counts[len(counts) // 2] //= 2 if damage == "half a strip" else 10**9
            page.tags["StripByteCounts" if tile is None else "TileByteCounts"].overwrite(counts)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(SourceError) as said:
        whole(open_source(path))
    assert one_line(str(said.value))


def test_a_scan_of_that_kind_gives_every_byte_back(tmp_path: Path) -> None:
    pixels = faulty(tmp_path / "a.tif", "null byte", tile=None, compression="lzw")
    stylize(tmp_path / "a.tif", tmp_path / "b.tif", network=load_network("identity"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), pixels)

"""TIFFs of every structure that tifffile writes, and the same with bytes of them changed: what is read is what was
written, whichever window is asked for, and what cannot be read is refused in one line.

More than what a test takes: ``URST_TILES_EXAMPLES=3000 pytest tests/test_sources_any_tiff.py``.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import picture
from urst_tiles import Window, open_source
from urst_tiles.errors import SourceError
from urst_tiles.sources.tiff import TiffSource

EXAMPLES = int(os.environ.get("URST_TILES_EXAMPLES", "60"))
LOSSLESS = (None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd", "lzma")
SIZES = (1, 3, 16, 17, 64, 130, 300)


@dataclass(frozen=True)
class Kind:
    """How a TIFF is written."""

    dtype: str
    bands: int
    apart: bool
    options: dict[str, Any]
    # of tifffile's
    level: bool
    # whether a smaller copy follows


@st.composite
def kinds(draw: st.DrawFn, compressions: tuple[str | None, ...] = LOSSLESS) -> Kind:
    compression = draw(st.sampled_from(compressions))
    lossy = compression in ("jpeg", "webp")
    bands = draw(st.sampled_from({"jpeg": (1, 3), "webp": (3, 4)}.get(compression or "", (1, 3, 4))))
    options: dict[str, Any] = {
        "photometric": "minisblack" if bands == 1 else "rgb",
        "compression": compression,
        "predictor": draw(st.sampled_from((None, True))) if compression in ("lzw", "deflate", "zstd") else None,
        "tile": draw(st.sampled_from((None, None, (16, 16), (32, 128), (64, 64), (256, 256)))),
        "extrasamples": ["unassalpha"] if bands == 4 else None,
    }
    if options["tile"] is None:
        options["rowsperstrip"] = draw(st.sampled_from((None, 1, 7, 64)))
    dtype = "uint8" if lossy else draw(st.sampled_from(("uint8", "uint16")))
    apart = bands > 1 and not lossy and draw(st.booleans())
    return Kind(dtype, bands, apart, options, draw(st.booleans()))


def write(path: Path, pixels: NDArray[Any], kind: Kind, *, bigtiff: bool, order: Any) -> None:
    """``pixels``: (rows, columns, bands)."""
    options = {name: value for name, value in kind.options.items() if value is not None}
    planes = pixels.transpose(2, 0, 1) if kind.apart else pixels
    with warnings.catch_warnings(), tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as tif:
        warnings.simplefilter("ignore")
        for step in (1, 2)[: 1 + kind.level]:
            part = planes[:, ::step, ::step] if kind.apart else planes[::step, ::step]
            tif.write(
                np.ascontiguousarray(part if kind.bands > 1 else part[..., 0]),
                planarconfig=("separate" if kind.apart else "contig") if kind.bands > 1 else None,
                subfiletype=step - 1,
                metadata=None,
                **options,
            )


@given(
    kind=kinds(),
    size=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    bigtiff=st.booleans(),
    order=st.sampled_from("<>"),
    data=st.data(),
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_was_written_is_read_in_any_window(
    kind: Kind, size: tuple[int, int], bigtiff: bool, order: str, data: st.DataObject
) -> None:
    height, width = size
    pixels = picture(height, width, kind.bands, kind.dtype).reshape(height, width, kind.bands)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.tif"
        write(path, pixels, kind, bigtiff=bigtiff, order=order)
        source = open_source(path)
        assert (source.info.width, source.info.height, source.info.bands) == (width, height, kind.bands)
        np.testing.assert_array_equal(source.read(Window(0, 0, width, height)), pixels)
        for _ in range(3):
            col, row = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
            part = Window(col, row, data.draw(st.integers(1, width - col)), data.draw(st.integers(1, height - row)))
            np.testing.assert_array_equal(source.read(part), pixels[part.slices])


@given(
    kind=kinds((*LOSSLESS, "jpeg", "webp")),
    bigtiff=st.booleans(),
    order=st.sampled_from("<>"),
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.sampled_from((1.0, 1.0, 1.0, 0.9, 0.5, 0.1)),
)
@settings(max_examples=5 * EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_damaged_ones_are_pixels_or_one_line(
    kind: Kind, bigtiff: bool, order: str, changes: list[tuple[int, int]], cut: float
) -> None:
    """Bytes of the header are changed: of what tells how the pixels are stored."""
    pixels = picture(130, 200, kind.bands, kind.dtype).reshape(130, 200, kind.bands)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.tif"
        write(path, pixels, kind, bigtiff=bigtiff, order=order)
        with tifffile.TiffFile(path) as tif:
            tags = [tag for page in tif.pages for tag in page.aspage().tags.values()]
        damaged = bytearray(path.read_bytes())
        places = [at for tag in tags for at in (*range(tag.offset, tag.offset + 12), tag.valueoffset)]
        for place, value in changes:
            damaged[places[place % len(places)]] = value
        path.write_bytes(damaged[: max(8, round(cut * len(damaged)))])
        said = refusal(path)
        assert said is None or re.fullmatch(rf"[^\n]*{re.escape(str(path))}[^\n]{{,400}}", said)


def refusal(path: Path) -> str | None:
    """Why a file is not read; None where it is, in the shape that it says. Anything but a refusal is raised."""
    try:
        source = open_source(path)
        window = Window(0, 0, min(source.info.width, 500), min(source.info.height, 500))
        pixels = source.read(window)
    except SourceError as error:
        return str(error)
    assert pixels.shape == (window.height, window.width, source.info.bands)
    return None


def set_tag(path: Path, name: str, value: int) -> None:
    """Write another number over that of a tag which holds one, of 16 or 32 bits."""
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags[name]
        place, kind = tag.valueoffset, tif.byteorder + {3: "H", 4: "I"}[int(tag.dtype)]
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, place, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("compression", "name", "value", "line"),
    [
        (
            None,
            "ImageWidth",
            50_000_000,
            r"cut off or damaged\. 50000000 x 130 pixels, as it says, take at least 18\.2 GiB",
        ),
        ("lzw", "ImageLength", 60_000_000, r"take at least 8\.38 MiB, and it has \d+ KiB"),
        ("deflate", "ImageWidth", 4_000_000, "cut off or damaged"),
        ("packbits", "ImageLength", 4_000_000, "cut off or damaged"),
        ("zstd", "TileLength", 0, "said to have 64 x 0 pixels"),
        ("zstd", "PlanarConfiguration", 7, r"stored in a way that there is not \(7\)"),
        ("zstd", "ImageWidth", 20_000, r"it has 12 tiles or strips, and 939 belong to its 20000 x 130 pixels"),
    ],
)
def test_what_a_header_says_is_held_against_the_file(
    tmp_path: Path, compression: str | None, name: str, value: int, line: str
) -> None:
    """Before room is made for it: that took gigabytes and a minute."""
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, picture(130, 200), photometric="rgb", compression=compression, tile=(64, 64), metadata=None)
    set_tag(path, name, value)
    with pytest.raises(SourceError, match=line):
        open_source(path)


def test_the_best_that_can_be_packed_is_not_taken_for_damage(tmp_path: Path) -> None:
    pixels = np.zeros((4096, 4096, 3), np.uint8)
    for compression in ("lzw", "deflate", "packbits", "zstd"):
        path = tmp_path / f"{compression}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, rowsperstrip=4096, metadata=None)
        source = open_source(path)
        assert (source.info.width, source.info.height) == (4096, 4096)
        assert isinstance(source, TiffSource) == (compression == "zstd")
        assert not source.read(Window(0, 0, 4096, 100)).any()

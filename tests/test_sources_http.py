"""Rasters behind a web server: only what is needed is fetched, and what goes wrong is one line."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from tests.sources_support import one_line, picture
from urst_tiles import load_network, open_source, stylize
from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window

pytest.importorskip("aiohttp")

SIDE = 64
"""Of tiles and chunks, in pixels."""


class Server(ThreadingHTTPServer):
    """A folder, and the bytes that were sent of its files."""

    def __init__(self, folder: Path, *, ranges: bool) -> None:
        self.ranges, self.sent, self.broken = ranges, 0, False
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if self.server.broken or not path.is_file():
            self.send_error(500 if self.server.broken else 404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        part = data
        if asked is not None:
            first, last = asked.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            end = int(last) + 1 if first and last else len(data)
            part = data[start:end]
            if not part:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)
            self.server.sent += len(part)


@pytest.fixture(params=[True], ids=["ranges"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    served = tmp_path / "served"
    served.mkdir()
    made = Server(served, ranges=request.param)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def raster(folder: Path, kind: str, pixels: Any) -> Path:
    path = folder / "served" / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(SIDE, SIDE))
    else:
        zarr.create_array(path, data=pixels, chunks=(SIDE, SIDE, 3), dimension_names=["y", "x", "c"])
    return path


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_windows_are_fetched_and_nothing_else(tmp_path: Path, server: Server, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    raster(tmp_path, kind, pixels)
    source = open_source(f"{server.url}/a.{kind}")
    np.testing.assert_array_equal(source.read(Window(700, 900, 130, 70)), pixels[900:970, 700:830])
    # Twelve megabytes lie there; the window is of 6 to 12 tiles, and fsspec may fetch blocks of megabytes.
    assert 0 < server.sent < pixels.nbytes * 0.6


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_run_from_a_web_server_gives_every_byte_back(tmp_path: Path, server: Server, kind: str) -> None:
    pixels = picture(200, 300, 3)
    raster(tmp_path, kind, pixels)
    stylize(f"{server.url}/a.{kind}", tmp_path / "out.tif", network=load_network("identity"), window=128)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pixels)


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_what_is_not_there_is_one_line(server: Server, kind: str) -> None:
    with pytest.raises(SourceError, match=rf"127\.0\.0\.1.*missing\.{kind}") as caught:
        open_source(f"{server.url}/missing.{kind}")
    assert one_line(str(caught.value))


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_server_that_fails_meanwhile_is_one_line_and_leaves_nothing(
    tmp_path: Path, server: Server, kind: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8)
    raster(tmp_path, kind, pixels)
    source = open_source(f"{server.url}/a.{kind}")
    server.broken = True
    with pytest.raises(SourceError) as caught:
        source.read(Window(2000, 2000, 900, 900))
    assert one_line(str(caught.value))
    with pytest.raises(SourceError):
        stylize(source, tmp_path / "out.tif", network=load_network("identity"))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("server", [False], indirect=True, ids=["whole files only"])
def test_a_server_without_ranges_is_one_line_or_right(tmp_path: Path, server: Server) -> None:
    pixels = picture(200, 300, 3)
    raster(tmp_path, "tif", pixels)
    try:
        found = open_source(f"{server.url}/a.tif").read(Window(10, 20, 100, 90))
    except SourceError as error:
        assert one_line(str(error))  # noqa: PT017
    else:
        np.testing.assert_array_equal(found, pixels[20:110, 10:110])

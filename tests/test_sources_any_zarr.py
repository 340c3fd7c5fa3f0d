"""Zarr stores whose metadata is damaged: pixels, or one line, and no room made for what it says.

More than what a test takes: ``URST_TILES_EXAMPLES=3000 pytest tests/test_sources_any_zarr.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import picture
from urst_tiles import Window, open_source
from urst_tiles.errors import SourceError

EXAMPLES = int(os.environ.get("URST_TILES_EXAMPLES", "120"))
ODD: tuple[Any, ...] = (
    *(None, True, "", "x", "yx", "..", "/etc", "float32", ">u2", "0" * 5000, "NaN", [], {}, [1], [[]], {"name": "x"}),
    *(-1, 0, 1, 3, 10**9, 2**63, 2**70, 1.5, [0, 0, 0], [3, 200, 300], [2**40] * 3),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """OME-Zarr 0.4 and 0.5, in shards and not."""
    folder, pixels = tmp_path_factory.mktemp("stores"), picture(120, 200).transpose(2, 0, 1)
    axes = [{"name": name, "type": kind} for name, kind in (("c", "channel"), ("y", "space"), ("x", "space"))]
    for name, version, more in (("a", 2, {}), ("b", 3, {}), ("c", 3, {"shards": (3, 128, 128)})):
        group = zarr.open_group(folder / name, mode="w", zarr_format=version)  # type: ignore[arg-type]
        for level in range(2):
            part = pixels[:, :: 2**level, :: 2**level]
            group.create_array(str(level), shape=part.shape, chunks=(3, 64, 64), dtype="uint8", **more)[...] = part  # type: ignore[arg-type]
        scales = [{"type": "scale", "scale": [1, 0.5 * 2**level, 0.5 * 2**level]} for level in range(2)]
        datasets = [{"path": str(n), "coordinateTransformations": [scale]} for n, scale in enumerate(scales)]
        multiscales = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        window = {"start": 0, "end": 255, "min": 0, "max": 255}
        omero = {"channels": [{"label": label, "color": "FF0000", "window": window} for label in "rgb"]}
        facts: dict[str, Any] = {"multiscales": multiscales, "omero": omero}
        group.attrs.update(facts if version == 2 else {"ome": {"version": "0.5", **facts}})
    return sorted(folder.iterdir())


def places(node: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where values stand in a document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def change(path: Path, place: int, value: Any) -> None:
    """Put a value in a place of a document, ``Ellipsis`` for none at all."""
    document = json.loads(path.read_text())
    found = list(places(document))
    if not found:
        return
    where = found[place % len(found)]
    node = document
    for key in where[:-1]:
        node = node[key]
    if value is ...:
        del node[where[-1]]
    else:
        node[where[-1]] = value
    path.write_text(json.dumps(document))


@given(
    which=st.integers(0, 2),
    file=st.integers(0),
    changes=st.lists(st.tuples(st.integers(0), st.sampled_from((..., *ODD))), min_size=1, max_size=3),
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_damaged_metadata_is_pixels_or_one_line(
    stores: list[Path], which: int, file: int, changes: list[tuple[int, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copytree(stores[which], Path(folder) / "in.zarr"))
        documents = sorted(path for path in store.rglob("*") if path.name in ("zarr.json", ".zarray", ".zattrs"))
        for place, value in changes:
            change(documents[file % len(documents)], place, value)
        try:
            source = open_source(store)
            window = Window(0, 0, min(source.info.width, 500), min(source.info.height, 500))
            shape, said = source.read(window).shape, None
        except SourceError as error:
            said = str(error)
        if said is None:
            assert shape[:2] == (window.height, window.width)
        else:
            assert re.fullmatch(rf"[^\n]*{re.escape(str(store))}[^\n]{{,400}}", said)


def test_chunks_without_a_side_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "in.zarr"
    zarr.create_array(store, shape=(100, 100, 3), chunks=(64, 64, 3), dtype="uint8", zarr_format=3)[...] = np.uint8(7)
    document = json.loads((store / "zarr.json").read_text())
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = 0
    (store / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"stored in chunks of 0 x 64 x 3: its metadata is damaged"):
        open_source(store)

"""OME-Zarr 0.5 as others read it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import ngff_zarr
import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from tests.stores_support import finished_store, layout_for
from urst_tiles.stores import OmeZarrStore


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("resolution", [None, (10.0, 12.5)])
def test_the_schema_accepts_it(tmp_path: Path, bands: Literal[3, 4], resolution: tuple[float, float] | None) -> None:
    layout = layout_for(70, 45, bands, resolution=resolution, name="a picture")
    _, pixels = finished_store(tmp_path / "a.zarr", layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = ngff_zarr.from_ngff_zarr(str(tmp_path / "a.zarr"), validate=True, version="0.5")
    first, second = read.images[:2]
    assert first.dims == ("c", "y", "x")
    np.testing.assert_array_equal(np.asarray(first.data), pixels)
    if resolution is None:
        assert (first.axes_units or {}).get("x") is None
        assert first.scale == {"c": 1.0, "y": 1.0, "x": 1.0}
        assert second.translation == {"c": 0.0, "y": 0.5, "x": 0.5}
    else:  # 10 and 12.5 pixels per millimetre are pixels of 100 and 80 micrometres
        assert first.axes_units is not None
        assert first.axes_units["x"] == first.axes_units["y"] == "micrometer"
        assert first.scale == {"c": 1.0, "y": 80.0, "x": 100.0}
        assert second.scale == {"c": 1.0, "y": 160.0, "x": 200.0}
        assert second.translation == {"c": 0.0, "y": 40.0, "x": 50.0}


def test_the_schema_would_refuse_a_wrong_one(tmp_path: Path) -> None:
    """The check above can fail."""
    OmeZarrStore.create(tmp_path / "a.zarr", layout_for(70, 45))
    group = tmp_path / "a.zarr/zarr.json"
    described = json.loads(group.read_text())
    del described["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    group.write_text(json.dumps(described))
    with pytest.raises(Exception, match="coordinateTransformations"):
        ngff_zarr.from_ngff_zarr(str(tmp_path / "a.zarr"), validate=True, version="0.5")


@pytest.mark.parametrize("bands", [3, 4])
def test_the_reference_reader_shows_colours(tmp_path: Path, bands: Literal[3, 4]) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(70, 45, bands, "uint16"))
    location = parse_url(str(tmp_path / "a.zarr"), mode="r")
    assert location is not None
    node = next(iter(Reader(location)()))
    assert [(level.shape[2], level.shape[1]) for level in node.data] == list(store.levels)
    np.testing.assert_array_equal(np.asarray(node.data[0]), pixels)
    metadata: dict[str, Any] = node.metadata
    assert metadata["channel_names"] == ["red", "green", "blue", "alpha"][:bands]
    assert metadata["visible"] == [True, True, True, False][:bands]
    assert metadata["contrast_limits"] == bands * [[0, 65535]]
    assert [colour[1] for colour in metadata["colormap"]][:3] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_pixel_centres_stay_where_they_are(tmp_path: Path) -> None:
    """The mean position of the full-size pixels behind a pixel of any level is where that level's metadata puts it."""
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout_for(256, 192, resolution=(4.0, 5.0)))
    datasets = store.attributes["ome"]["multiscales"][0]["datasets"]
    assert len(datasets) == 5
    for axis, side, length in [(1, 1000 / 5, 192), (2, 1000 / 4, 256)]:
        centres = side * np.arange(length)
        for dataset in datasets:
            transformations = {t["type"]: t[t["type"]] for t in dataset["coordinateTransformations"]}
            start = transformations.get("translation", [0, 0, 0])[axis]
            described = start + transformations["scale"][axis] * np.arange(len(centres))
            np.testing.assert_allclose(described, centres)
            centres = centres.reshape(-1, 2).mean(1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_arrays_are_what_the_page_says(tmp_path: Path, dtype: Literal["uint8", "uint16"]) -> None:
    OmeZarrStore.create(tmp_path / "a.zarr", layout_for(100, 70, 4, dtype, chunk=16, cores=4))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2", "3"]
    for _, array in group.arrays():
        assert array.metadata.zarr_format == 3
        assert array.chunks == (4, 16, 16)
        assert array.shards == (4, 64, 64)
        assert array.fill_value == 0
        assert array.metadata.dimension_names == ("c", "y", "x")
        codec: Any = array.compressors[0]
        configuration = codec.to_dict()["configuration"]
        assert configuration["cname"] == "zstd"
        assert configuration["typesize"] == np.dtype(dtype).itemsize

"""A network written as ONNX, run by onnxruntime, against the frozen network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.networks_support import statistics_of
from tests.support import picture, write_tiff
from urst_tiles import collect_statistics, export_network
from urst_tiles.cli import app
from urst_tiles.errors import InputError, StoreError, UrstTilesError
from urst_tiles.networks import sample_network
from urst_tiles.networks.untrained import untrained

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["johnson", "adain", "microast"])
def test_onnxruntime_makes_the_frozen_networks_picture(name: str, tmp_path: Path) -> None:
    network, thumbnail = sample_network(name), picture(96, 128)
    statistics = collect_statistics(network, thumbnail)
    statistics.save(tmp_path / "statistics.safetensors")
    path = export_network(network, tmp_path / "network.onnx", statistics=tmp_path / "statistics.safetensors")
    frozen, model = network.freeze(statistics), session(path)
    (given,), (made,) = model.get_inputs(), model.get_outputs()
    assert given.shape == made.shape == ["batch", 3, "height", "width"]
    stride, least = frozen.stride, frozen.minimum
    # none of them the size or the number it was recorded with
    for count, height, width in (
        (1, least, least + stride),
        (1, 16 * stride, 9 * stride),
        (3, 8 * stride, 20 * stride),
    ):
        windows = np.stack([picture(height, width, seed=seed) for seed in range(count)])
        image = torch.from_numpy(windows).permute(0, 3, 1, 2).to(torch.float32) / 255
        with torch.inference_mode():
            wanted = frozen(image).numpy()
        (found,) = model.run(None, {"image": image.numpy()})
        assert found.shape == wanted.shape
        assert np.ptp(wanted) > 0.1  # a picture, not a plane
        assert np.abs(found - wanted).max() <= 1e-4


def test_the_model_says_what_tiling_needs_and_nothing_of_this_machine(tmp_path: Path) -> None:
    network, raster = untrained(width=2), write_tiff(tmp_path / "in.tif", picture(64, 80))
    path = export_network(network, tmp_path / "network.onnx", raster=raster, thumbnail=64)
    model = onnx.load(path)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["method"] == network.name
    assert (told["halo"], told["stride"]) == (str(network.halo), str(network.stride))
    assert told["statistics"] == collect_statistics(network, picture(64, 80)).hash()
    assert told["weights"] == network.weights_hash
    assert told["value_range"] == "0,1"
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.pt", {"statistics": "s"}, "does not end in .onnx"),
        ("a.onnx", {}, "give either"),
        ("a.onnx", {"statistics": "s", "raster": "r"}, "give either"),
        ("a.onnx", {"statistics": "nothing-here"}, "nothing-here"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_left(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UrstTilesError, match=message):
        export_network(untrained(width=2), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_stands_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(StoreError, match="there already"):
        export_network(untrained(width=2), tmp_path / "a.onnx", raster=picture(64, 64))
    assert (tmp_path / "a.onnx").read_text() == "mine"


def test_colours_of_the_raster_need_the_raster(tmp_path: Path) -> None:
    network = untrained(width=2)
    network.recolour_with(lambda _: network)
    with pytest.raises(InputError, match="give the raster"):
        export_network(network, tmp_path / "a.onnx", statistics=statistics_of(network))


def test_without_the_exporter_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urst_tiles.networks.onnx.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'urst-tiles\[onnx\]'"):
        export_network(untrained(width=2), tmp_path / "a.onnx", raster=picture(64, 64))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_it(tmp_path: Path) -> None:
    raster = write_tiff(tmp_path / "in.tif", picture(64, 80))
    out = tmp_path / "net.onnx"
    done = CliRunner().invoke(app, ["export-network", str(out), "--network", "identity", "--raster", str(raster)])
    assert done.exit_code == 0, done.output
    assert "stride 1, halo 0 px" in done.output
    image = np.random.default_rng(0).random((1, 3, 5, 7), dtype=np.float32)
    assert np.array_equal(session(out).run(None, {"image": image})[0], image)

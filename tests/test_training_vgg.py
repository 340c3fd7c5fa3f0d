"""VGG19 files and what is told from them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.support import SHARED
from tests.training_support import save_encoder, save_vgg, vgg_state
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.training.encoders import load_encoder
from urst_tiles.training.vgg import load_loss_network

CAFFE_FILE = SHARED / "weights" / "vgg19" / "vgg19_caffe_conv1_1-conv3_4.pth"


def test_torchvision_names_are_recognised(tmp_path: Path) -> None:
    network = load_loss_network(save_vgg(tmp_path / "vgg.pth"))
    assert (network.pixels, network.layers[0], network.layers[-1]) == ("torchvision", "relu1_1", "relu4_1")
    assert network.stroke_layer == "relu4_1"


def test_caffe_names_are_recognised(tmp_path: Path) -> None:
    assert load_loss_network(save_vgg(tmp_path / "vgg.pth", names="caffe")).pixels == "caffe"


def test_caffe_values_under_torchvision_names_are_recognised(tmp_path: Path) -> None:
    state = vgg_state()
    state["features.0.weight"] = torch.cat([state["features.0.weight"]] * 2)
    state["features.0.bias"] = torch.tensor([0.7302, 0.0649, 0.0343, 0.8260, 0.2578, 0.5487, -0.0124, 0.3479])
    state["features.2.weight"] = torch.cat([state["features.2.weight"]] * 2, dim=1)
    torch.save(state, tmp_path / "vgg.pth")
    assert load_loss_network(tmp_path / "vgg.pth").pixels == "caffe"
    assert load_loss_network(tmp_path / "vgg.pth", pixels="torchvision").pixels == "torchvision"


def test_fully_connected_layers_are_left_out(tmp_path: Path) -> None:
    torch.save({**vgg_state(), "classifier.0.weight": torch.zeros(4, 4)}, tmp_path / "vgg.pth")
    assert load_loss_network(tmp_path / "vgg.pth").layers[-1] == "relu4_1"


def test_a_short_file_compares_strokes_where_it_ends_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "urst_tiles"):
        network = load_loss_network(save_vgg(tmp_path / "vgg.pth", layers=8))
    assert network.stroke_layer == "relu3_4"
    assert "relu4_1 is not in" in caplog.text
    assert "relu3_4" in caplog.text


def test_an_encoder_gives_the_layers_that_the_file_ends_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, encoder = save_vgg(tmp_path / "vgg.pth", layers=8), save_encoder(tmp_path / "encoder.pth", layers=9)
    with caplog.at_level(logging.INFO, "urst_tiles"):
        network = load_loss_network(path, encoder=encoder)
    assert network.layers == (*load_loss_network(path).layers, "relu4_1")
    assert network.stroke_layer == "relu4_1"
    assert "relu4_1 is not in" not in caplog.text
    image = torch.rand(1, 3, 32, 24)
    found = network(image, ["relu1_1", "relu4_1"])
    assert torch.equal(found["relu1_1"], load_loss_network(path)(image, ["relu1_1"])["relu1_1"])
    torch.testing.assert_close(found["relu4_1"], load_encoder(encoder).features(image, ["relu4_1"])["relu4_1"])


def test_an_encoder_alone_is_a_loss_network(tmp_path: Path) -> None:
    encoder, image = save_encoder(tmp_path / "encoder.pth", layers=9), torch.rand(1, 3, 32, 24)
    network = load_loss_network(None, encoder=encoder)
    assert network.layers == load_encoder(encoder).layers
    expected = load_encoder(encoder).features(image, ["relu1_2", "relu3_1"])
    torch.testing.assert_close(dict(network(image, ["relu3_1", "relu1_2"])), expected)
    with pytest.raises(InputError, match="a loss network needs weights"):
        load_loss_network(None)


@pytest.mark.skipif(not CAFFE_FILE.exists(), reason="needs shared/weights/vgg19")
def test_the_real_file_is_recognised() -> None:
    network = load_loss_network(CAFFE_FILE)
    assert (network.pixels, network.stroke_layer) == ("caffe", "relu3_4")


def test_pixels_are_given_as_the_weights_want_them(tmp_path: Path) -> None:
    path, image = save_vgg(tmp_path / "vgg.pth"), torch.rand(1, 3, 8, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    weight, bias = vgg_state()["features.0.weight"], vgg_state()["features.0.bias"]
    rgb = (image - mean[:, None, None]) / std[:, None, None]
    bgr = image.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.680])[:, None, None]
    for pixels, given in (("torchvision", rgb), ("caffe", bgr)):
        expected = torch.nn.functional.conv2d(given, weight, bias, padding=1).relu()
        got = load_loss_network(path, pixels=pixels)(image, ["relu1_1"])["relu1_1"]  # type: ignore[arg-type]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_features_have_the_stages_sizes(tmp_path: Path) -> None:
    features = load_loss_network(save_vgg(tmp_path / "vgg.pth"))(
        torch.rand(2, 3, 32, 24), ["relu1_2", "relu3_1", "relu4_1"]
    )
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "relu1_2": (2, 4, 32, 24),
        "relu3_1": (2, 8, 8, 6),
        "relu4_1": (2, 8, 4, 3),
    }


def test_errors_say_what_is_there(tmp_path: Path) -> None:
    path = save_vgg(tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=r"no layer 'relu9_9'; it has relu1_1"):
        load_loss_network(path)(torch.rand(1, 3, 8, 8), ["relu9_9"])
    with pytest.raises(InputError, match="pixel range 'rgb' is unknown"):
        load_loss_network(path, pixels="rgb")  # type: ignore[arg-type]
    torch.save({"layer.weight": torch.zeros(200, 4)}, tmp_path / "other.pth")
    with pytest.raises(NetworkError, match="holds no VGG19"):
        load_loss_network(tmp_path / "other.pth")
    torch.save({**vgg_state(), "features.2.weight": torch.zeros(4, 9, 3, 3)}, tmp_path / "wrong.pth")
    with pytest.raises(NetworkError, match=r"conv1_2 has weights \(4, 9, 3, 3\)"):
        load_loss_network(tmp_path / "wrong.pth")

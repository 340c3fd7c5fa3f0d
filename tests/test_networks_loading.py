"""load_network and save_weights: what they take, and what they say when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.networks_support import largest_difference, network_of, noise, statistics_of, tensor
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import METHODS, load_network, save_weights
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.networks.checkpoints import read_metadata
from urst_tiles.networks.johnson import JohnsonNetwork
from urst_tiles.networks.untrained import untrained


def test_the_registry_is_readable_and_cannot_be_changed() -> None:
    assert list(METHODS) == sorted(METHODS)
    assert {"identity", "johnson", "wct"} <= set(METHODS)
    assert all(method.summary for method in METHODS.values())
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["identity"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "jonson", "weights": "w.pth"}, "there is no method 'jonson'; there are adain, "),
        ({"method": "johnson"}, "'johnson' needs a weights file"),
        ({"method": "johnson", "weights": "w.pth", "style": "starry.jpg"}, "takes no style image"),
        ({"method": "johnson", "weights": "w.pth", "alpha": 0.5}, "has no alpha"),
        ({"method": "johnson", "weights": "w.pth", "alpha": 1.5}, "alpha 1.5 is not between 0 and 1"),
        ({"method": "identity", "weights": "w.pth"}, "has no weights"),
    ],
)
def test_arguments_that_do_not_fit_the_method(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_network(**arguments)  # type: ignore[arg-type]


def test_saved_weights_say_themselves_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    network = untrained(width=2)
    save_weights(path, network, metadata={"painter": "nobody"})
    assert read_metadata(path) == {
        "format": "urst_tiles.weights",
        "version": "1",
        "method": "johnson",
        "painter": "nobody",
    }
    loaded = load_network("johnson", path)
    assert loaded.weights_hash == network.weights_hash
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value_range", ["imagenet", "rgb-0-255"])
def test_value_ranges_are_saved_with_the_weights(tmp_path: Path, value_range: str) -> None:

    module = JohnsonNetwork((2, 4, 8), 1, "imagenet" if value_range == "imagenet" else "rgb-0-255")
    network = StyleNetwork("johnson", module)
    save_weights(tmp_path / "w", network, half=True)
    loaded = load_network("johnson", tmp_path / "w").module.state_dict()
    assert torch.equal(loaded["range_in.scale"], module.range_in.scale)
    assert torch.equal(loaded["range_out.shift"], module.range_out.shift)


def test_half_precision_is_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    network = untrained(width=8)
    save_weights(tmp_path / "full", network)
    save_weights(tmp_path / "half", network, half=True)
    sizes = {name: (tmp_path / name).stat().st_size for name in ("full", "half")}
    assert sizes["half"] < 0.6 * sizes["full"]
    loaded = load_network("johnson", tmp_path / "half")
    statistics, image = statistics_of(network), tensor(noise(24, 24))
    difference = largest_difference(loaded.freeze(statistics)(image), network.freeze(statistics)(image))
    assert 0 < difference < 0.02


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    network = network_of(nn.Conv2d(3, 3, 1))
    with torch.no_grad():
        network.module.get_parameter("0.bias").fill_(1e6)
    with pytest.raises(NetworkError, match=r"reaches 1e\+06, which float16 cannot hold"):
        save_weights(tmp_path / "w", network, half=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NetworkError, match="no weights to save"):
        save_weights(tmp_path / "w", load_network("identity"))


def test_weights_saved_for_another_method_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a.weight": torch.zeros(1)}, path, {"method": "adain"})
    with pytest.raises(NetworkError, match="weights of method 'adain', not 'johnson'"):
        load_network("johnson", path)

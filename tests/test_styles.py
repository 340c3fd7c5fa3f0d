"""Styles: a card and weights beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.networks_support import largest_difference, noise, statistics_of, tensor
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.networks import load_network
from urst_tiles.networks.untrained import untrained
from urst_tiles.styles import StyleCard, list_styles, load_style, save_style

CARD = StyleCard(
    "starry-night",
    "De sterrennacht",
    painter="Vincent van Gogh",
    year="1889",
    width=2,
    weights_licence="CC0-1.0",
    losses={"style": 0.73, "steps": [1, 2]},
)


def test_a_style_saved_is_a_style_listed_and_loaded(tmp_path: Path) -> None:
    network = untrained(width=2)
    path = save_style(tmp_path / "styles", CARD, network, half=False)
    assert path.name == "starry-night.safetensors"
    assert list_styles(tmp_path / "styles") == (CARD,)
    loaded = load_style("starry-night", tmp_path / "styles")
    assert loaded.weights_hash == network.weights_hash
    assert load_network("johnson", path).weights_hash == network.weights_hash


def test_styles_are_stored_in_half_precision_unless_asked(tmp_path: Path) -> None:
    network = untrained(width=2)
    save_style(tmp_path, CARD, network)
    loaded = load_style("starry-night", tmp_path)
    statistics, image = statistics_of(network), tensor(noise(16, 16))
    assert loaded.weights_hash != network.weights_hash
    assert largest_difference(loaded.freeze(statistics)(image), network.freeze(statistics)(image)) < 0.02


def test_an_unknown_style_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no style 'mosaic'; none is shipped yet"):
        load_style("mosaic", tmp_path)
    save_style(tmp_path, CARD, untrained(width=2))
    with pytest.raises(InputError, match="there is no style 'mosaic'; there are starry-night"):
        load_style("mosaic", tmp_path)
    with pytest.raises(InputError, match="there is no style"):
        load_style("../elsewhere", tmp_path)


def test_every_shipped_style_loads() -> None:
    for card in list_styles():
        assert load_style(card.name).name == card.method


def test_a_card_without_weights_is_no_style(tmp_path: Path) -> None:
    CARD.write(tmp_path / "starry-night.json")
    assert list_styles(tmp_path) == ()


def test_cards_of_a_later_version_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "a", "title": "A", "colour": "blue"}')
    assert StyleCard.read(path) == StyleCard("a", "A")
    for broken in ("{", "[]", '{"name": "a"}', '{"name": "../a", "title": "A"}'):
        path.write_text(broken)
        with pytest.raises(InputError):
            StyleCard.read(path)


def test_a_card_must_fit_its_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="says method 'johnson', the network is 'identity'"):
        save_style(tmp_path, CARD, load_network("identity"))
    identity = StyleCard("copy", "Copy", method="identity")
    with pytest.raises(NetworkError, match="no weights"):
        save_style(tmp_path, identity, load_network("identity"))
    assert list_styles(tmp_path) == ()


def test_listing_styles_needs_no_torch() -> None:
    code = "import sys, urst_tiles.styles as s; s.list_styles(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The shipped styles: small, described, and pictures come out of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import urst_tiles.styles
from urst_tiles.demo import landscape
from urst_tiles.statistics import collect_statistics
from urst_tiles.styles import StyleCard, list_styles, load_style, preview_of

FOLDER = Path(urst_tiles.styles.__file__).parent


@pytest.fixture(params=list_styles(), ids=lambda card: card.name)
def card(request: pytest.FixtureRequest) -> StyleCard:
    found: StyleCard = request.param
    return found


def test_a_default_is_there() -> None:
    assert "starry-night" in [card.name for card in list_styles()]


def test_files_are_small(card: StyleCard) -> None:
    assert (FOLDER / f"{card.name}.safetensors").stat().st_size <= 1_000_000
    preview = preview_of(card.name)
    assert preview is not None
    assert preview.stat().st_size <= 150_000


def test_cards_say_what_it_is(card: StyleCard) -> None:
    for said in (card.title, card.painter, card.year, card.command, card.trained_by, card.notes):
        assert said
        assert "/" not in card.command  # no path of the machine it was trained on
    assert (card.method, card.width, card.weights_licence) == ("johnson", 16, "Apache-2.0")
    assert card.losses["terms"]["style"] < 0.25 * card.losses["the photos themselves"]["style"]
    assert len(card.losses["curve"]["total"]) >= 10


def test_a_picture_comes_out_that_is_not_flat(card: StyleCard) -> None:
    network, photo = load_style(card.name), landscape(0, 0, 384, 256, 384, 256)
    frozen = network.freeze(collect_statistics(network, photo))
    with torch.inference_mode():
        image = frozen(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)[0].numpy()
    assert np.isfinite(image).all()
    assert image.std() > 0.05
    # Content: where the photo is bright or dark by large, the picture follows one way or the other.
    coarse = [x.reshape(8, 32, 12, 32).mean((1, 3)).ravel() for x in (image.mean(0), photo.mean(2))]
    assert abs(np.corrcoef(coarse)[0, 1]) > 0.3

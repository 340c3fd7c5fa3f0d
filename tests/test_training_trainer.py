"""The loop: it learns, resumes bit for bit, and survives what photos and gradients do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support import picture
from tests.training_support import photo_folder, save_vgg, tiny_config, write_photo
from urst_tiles.errors import InputError, NetworkError, RunMismatchError
from urst_tiles.networks import load_network
from urst_tiles.networks.johnson import JohnsonNetwork
from urst_tiles.styles import StyleCard, load_style
from urst_tiles.training.checkpoints import load_checkpoint
from urst_tiles.training.config import LossWeights, TrainingConfig
from urst_tiles.training.data import Batch, CropSampler, PhotoFolder
from urst_tiles.training.events import PhotoSkipped, StepFinished, StepSkipped, TrainingEvent
from urst_tiles.training.styles import TrainingReport, train_style
from urst_tiles.training.trainer import Trainer


class Workshop:
    """A folder with everything a training needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = photo_folder(folder / "photos")
        self.painting = write_photo(folder / "painting.tif", picture(80, 72, seed=9))
        self.vgg = save_vgg(folder / "vgg.pth")
        self.events: list[TrainingEvent] = []

    def train(
        self, name: str = "tiny", *, resume: bool = False, start: Path | None = None, **changes: object
    ) -> TrainingReport:
        return train_style(
            self.photos,
            self.painting,
            self.folder / f"{name}.safetensors",
            vgg=self.vgg,
            config=tiny_config(**changes),
            resume=resume,
            start=start,
            callbacks=[self.events.append],
        )

    def totals(self) -> list[float]:
        return [event.total for event in self.events if isinstance(event, StepFinished)]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_twenty_steps_lower_the_loss_and_write_a_style(workshop: Workshop) -> None:
    report = workshop.train()
    totals = workshop.totals()
    assert np.mean(totals[-5:]) < 0.9 * np.mean(totals[:3])
    assert (report.steps, report.skipped_steps, report.skipped_photos) == (20, 0, 0)
    assert report.losses.keys() >= {"style", "content", "stroke"}
    card = json.loads((workshop.folder / "tiny.json").read_text())
    assert (card["name"], card["method"], card["width"]) == ("tiny", "johnson", 4)
    assert card["losses"]["held-out photos"] == 1
    image = torch.rand(1, 3, 32, 32)
    trained = load_checkpoint(workshop.folder / "tiny.training" / "checkpoint.pt").network
    network = JohnsonNetwork((4, 8, 16), 1)
    network.load_state_dict(trained)
    for loaded in (load_style("tiny", workshop.folder), load_network("johnson", report.weights)):
        torch.testing.assert_close(loaded.module(image), network(image).detach(), rtol=0, atol=0.01)  # float16


class StoppedError(Exception):
    pass


def test_a_resumed_training_equals_one_without_a_stop(workshop: Workshop) -> None:
    def stop(event: TrainingEvent) -> None:
        if isinstance(event, StepFinished) and event.step == 13:
            raise StoppedError

    workshop.train("whole")
    with pytest.raises(StoppedError):
        train_style(
            workshop.photos,
            workshop.painting,
            workshop.folder / "parts.safetensors",
            vgg=workshop.vgg,
            config=tiny_config(),
            callbacks=[stop],
        )
    assert load_checkpoint(workshop.folder / "parts.training" / "checkpoint.pt").step == 10
    workshop.train("parts", resume=True)
    whole, parts = (load_checkpoint(workshop.folder / f"{n}.training" / "checkpoint.pt") for n in ("whole", "parts"))
    assert whole.history == parts.history
    for name, tensor in whole.network.items():
        assert torch.equal(tensor, parts.network[name]), name
    for index, values in whole.optimizer["state"].items():
        for name, value in values.items():
            assert torch.equal(value, parts.optimizer["state"][index][name])
    first, second = ((workshop.folder / f"{n}.safetensors").read_bytes() for n in ("whole", "parts"))
    assert first[-4096:] == second[-4096:]


def test_resuming_another_training_is_refused(workshop: Workshop) -> None:
    with pytest.raises(InputError, match="no training to go on with"):
        workshop.train(resume=True)
    workshop.train(steps=2)
    with pytest.raises(RunMismatchError, match=r"weights\.stroke: 1\.0 → 0"):
        workshop.train(steps=2, resume=True, weights=LossWeights(stroke=0))
    write_photo(workshop.painting, picture(80, 72, seed=10))
    with pytest.raises(RunMismatchError, match="painting"):
        workshop.train(steps=2, resume=True)
    (workshop.folder / "tiny.training" / "checkpoint.pt").write_bytes(b"no checkpoint" * 100)
    with pytest.raises(InputError, match="no checkpoint of a training"):
        workshop.train(steps=2, resume=True)


def test_a_training_can_begin_with_another_style(workshop: Workshop) -> None:
    first = workshop.train("first", steps=6)
    before = workshop.totals()[-1]
    workshop.events.clear()
    workshop.train("second", steps=2, start=first.weights, learning_rate=1e-4)
    assert workshop.totals()[0] < 1.5 * before
    with pytest.raises(NetworkError, match="another width or depth"):
        workshop.train("third", steps=2, start=first.weights, width=8)


def test_a_corrupt_photo_is_told_and_counted(workshop: Workshop) -> None:
    for name in ("a.jpg", "b.png", "y.tif", "z.webp"):
        (workshop.photos / name).write_bytes(b"broken" * 50)
    report = workshop.train(steps=8)
    skipped = {event.path.name for event in workshop.events if isinstance(event, PhotoSkipped)}
    assert report.skipped_photos == len(skipped) > 0
    assert skipped <= {"a.jpg", "b.png", "y.tif", "z.webp"}


def test_an_empty_folder_is_a_clear_error(workshop: Workshop) -> None:
    (workshop.folder / "empty").mkdir()
    workshop.photos = workshop.folder / "empty"
    with pytest.raises(InputError, match="holds no photos; put the photos to train on there"):
        workshop.train()


def test_targets_and_paintings_that_make_no_sense(workshop: Workshop) -> None:
    with pytest.raises(InputError, match="written as a safetensors file"):
        train_style(workshop.photos, workshop.painting, workshop.folder / "a.pth", vgg=workshop.vgg)
    write_photo(workshop.painting, np.full((80, 80, 3), 128, np.uint8))
    with pytest.raises(InputError, match="is blank"):
        workshop.train()


class Brittle:
    """A recipe whose loss is not finite at some steps."""

    name = "brittle"
    stroke_layer = "none"

    def __init__(self, broken: set[int]) -> None:
        self.network: nn.Module = nn.Conv2d(3, 3, 1)
        self.broken, self.calls = broken, 0

    def prepare(self, batches: Iterable[Batch]) -> dict[str, float]:
        return {"batches": float(len(list(batches)))}

    def terms(self, batch: Batch, constants: Mapping[str, float], *, stroke: bool) -> dict[str, Tensor]:
        self.calls += 1
        loss = self.network(batch.thumbnail).square().mean()
        return {"style": loss * float("nan") if self.calls in self.broken else loss}

    def preview(self, photo: Tensor, style: Tensor | None) -> list[Tensor]:
        raise NotImplementedError

    def save(self, path: Path, card: StyleCard | None) -> None:
        raise NotImplementedError


def brittle_trainer(workshop: Workshop, recipe: Brittle, config: TrainingConfig) -> Trainer:
    sampler = CropSampler(PhotoFolder(workshop.photos), crop=64, batch=1, seed=0)
    path = workshop.folder / "checkpoint.pt"
    return Trainer(recipe, sampler, config, checkpoint=path, callbacks=[workshop.events.append])


def test_a_step_without_finite_gradient_is_skipped_and_counted(workshop: Workshop) -> None:
    recipe = Brittle({2, 3})
    state = brittle_trainer(workshop, recipe, tiny_config(steps=5)).run()
    assert (state.step, state.skipped) == (5, 2)
    assert [event.step for event in workshop.events if isinstance(event, StepSkipped)] == [2, 3]
    assert state.history["step"] == [1.0, 4.0, 5.0]
    assert all(torch.isfinite(parameter).all() for parameter in recipe.network.parameters())


def test_a_training_that_has_diverged_stops(workshop: Workshop) -> None:
    with pytest.raises(NetworkError, match="diverged"):
        brittle_trainer(workshop, Brittle(set(range(1000))), tiny_config(steps=200)).run()


def test_schedules() -> None:
    cosine = TrainingConfig(steps=100, warmup=9, learning_rate=1.0)
    assert cosine.rate(0) == pytest.approx(0.1)
    assert cosine.rate(50) == pytest.approx(0.505)
    assert 0.01 <= cosine.rate(99) < 0.02
    inverse = TrainingConfig(schedule="inverse", warmup=0, learning_rate=1e-4, decay=5e-5)
    assert inverse.rate(20000) == pytest.approx(1e-4 / 2)
    assert TrainingConfig(schedule="constant", warmup=0, learning_rate=0.5).rate(7) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 100}, "no multiple of 8"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"noise": -1.0}, "noise must be a number of at least 0"),
        ({"schedule": "step"}, "schedule 'step' is unknown; use cosine"),
        ({"device": "tpu0"}, "device 'tpu0' is unknown"),
    ],
)
def test_settings_out_of_range(workshop: Workshop, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        workshop.train("odd", **changes)  # type: ignore[arg-type]


def test_weights_of_losses_are_checked() -> None:
    with pytest.raises(InputError, match="weight of the style term"):
        LossWeights(style=-1)


def test_previews_show_held_out_photos(workshop: Workshop) -> None:
    import imagecodecs

    workshop.train(steps=2, preview_every=2)
    found = list((workshop.folder / "tiny.training").glob("preview-*.png"))
    assert [path.name for path in found] == ["preview-000002.png"]
    # A row a photo: shrunk, stylised, and stylised at full size.
    assert imagecodecs.png_decode(found[0].read_bytes()).shape == (32, 96, 3)
    pytest.importorskip("matplotlib")
    assert (workshop.folder / "tiny.training" / "losses.png").stat().st_size > 5000


def test_lambda_0_trains_without_the_stroke_term(workshop: Workshop) -> None:
    report = workshop.train(steps=2, weights=LossWeights(stroke=0))
    finished = [event for event in workshop.events if isinstance(event, StepFinished)]
    assert all("stroke" not in event.losses for event in finished)
    assert "stroke" in report.losses  # measured all the same, to compare with


def test_bfloat16_trains_too(workshop: Workshop) -> None:
    workshop.train(steps=3, precision="bfloat16")
    assert all(np.isfinite(workshop.totals()))

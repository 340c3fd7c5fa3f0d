"""Training the decoders of AdaIN and LinearWCT: losses against NumPy, where gradients go, and what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from tests.support import picture
from tests.test_training_losses import enlarged_by_hand, random
from tests.training_support import photo_folder, save_encoder, save_vgg, tiny_decoder_config, write_photo
from urst_tiles.errors import InputError, NetworkError, RunMismatchError, UrstTilesError
from urst_tiles.geometry import Window
from urst_tiles.networks import load_network, load_state_dict
from urst_tiles.networks.checkpoints import read_metadata
from urst_tiles.styles import list_styles
from urst_tiles.training.any_style import prepare_any_style
from urst_tiles.training.checkpoints import load_checkpoint
from urst_tiles.training.cli import train_command
from urst_tiles.training.config import LossWeights, TrainingConfig
from urst_tiles.training.data import Batch, StyleSampler, split
from urst_tiles.training.encoders import Encoder, load_encoder, untrained_decoder
from urst_tiles.training.events import PaintingSkipped, StepFinished, TrainingEvent, TrainingStarted
from urst_tiles.training.folders import PaintingFolder
from urst_tiles.training.recipes.arbitrary import ArbitraryNetwork, ArbitraryRecipe, Statistics
from urst_tiles.training.report import TrainingReport
from urst_tiles.training.styles import train_style

METHODS = ("adain", "linear-wct")
Array = NDArray[np.float64]


class Workshop:
    """A folder with everything that training a decoder needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = photo_folder(folder / "photos")
        self.paintings = photo_folder(folder / "paintings", count=4, side=72)
        self.encoder = save_encoder(folder / "vgg_normalised.pth")
        self.events: list[TrainingEvent] = []

    def train(
        self, method: str, name: str = "tiny", *, resume: bool = False, start: Path | None = None, **changes: object
    ) -> TrainingReport:
        return train_style(
            self.photos,
            self.paintings,
            self.folder / f"{name}.safetensors",
            encoder=self.encoder,
            config=tiny_decoder_config(method, **changes),
            start=start,
            resume=resume,
            callbacks=[self.events.append],
        )

    def recipe(self, method: str, **changes: object) -> ArbitraryRecipe:
        config = tiny_decoder_config(method, **changes)
        return prepare_any_style(
            self.paintings,
            self.encoder,
            None,
            config,
            torch.device("cpu"),
            torch.float32,
            on_skip=lambda path, reason: None,
        ).recipe


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def crops(seed: int = 5) -> Batch:
    batch = split(random(2, 3, 64, 64, seed=seed), Window(col_off=4, row_off=10, width=32, height=32))
    return Batch(batch.thumbnail, batch.patch, batch.place, random(2, 3, 32, 32, seed=seed + 1))


def lively(recipe: ArbitraryRecipe) -> ArbitraryRecipe:
    """With weights that hand on what an untrained network of few channels nearly loses."""
    with torch.no_grad():
        for name, parameter in recipe.network.named_parameters():
            if parameter.requires_grad and name.endswith(".weight"):
                parameter.mul_(20 if ".fc." in name else 2.5)
    return recipe


def seen_by(recipe: ArbitraryRecipe, image: Array | Tensor) -> dict[str, Array]:
    encoder = recipe.network.encoder
    features = encoder.features(torch.as_tensor(image).float(), encoder.levels)
    return {name: value.detach().double().numpy() for name, value in features.items()}


def decoded(recipe: ArbitraryRecipe, features: Array) -> Array:
    image: Array = recipe.network.decoder(torch.from_numpy(features).float()).detach().double().numpy()
    return image


def square_error(a: Array, b: Array) -> float:
    return float(((a - b) ** 2).mean())


def moments(x: Array) -> tuple[Array, Array]:
    return x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), ddof=1, keepdims=True) + 1e-5)


def adain_by_hand(recipe: ArbitraryRecipe, batch: Batch) -> dict[str, float]:
    """Eq. 8 and 11 to 13 of Huang and Belongie, and Eq. 3 of URST."""
    assert batch.style is not None
    painting, photo = seen_by(recipe, batch.style), seen_by(recipe, batch.thumbnail)
    (mean_s, std_s), (mean_t, std_t) = moments(painting["relu3_1"]), moments(photo["relu3_1"])
    aim = std_s * (photo["relu3_1"] - mean_t) / std_t + mean_s
    output = decoded(recipe, aim)
    seen = seen_by(recipe, output)
    style = 0.0
    for name in ("relu1_1", "relu2_1", "relu3_1"):
        style += sum(square_error(a, b) for a, b in zip(moments(seen[name]), moments(painting[name]), strict=True))
    patch = decoded(recipe, std_s * (seen_by(recipe, batch.patch)["relu3_1"] - mean_t) / std_t + mean_s)
    target = enlarged_by_hand(output)[..., 10:42, 4:36]
    stroke = square_error(seen_by(recipe, patch)["relu3_1"], seen_by(recipe, target)["relu3_1"])
    return {"content": square_error(seen["relu3_1"], aim), "style": style, "stroke": stroke}


def linear_wct_by_hand(recipe: ArbitraryRecipe, batch: Batch) -> dict[str, float]:
    """Section 3.2 of Li et al. and the losses of their code, and Eq. 3 of URST."""
    assert batch.style is not None
    state = {name: value.detach().double().numpy() for name, value in recipe.network.state_dict().items()}
    size = len(state["compress.bias"])

    def matrix(net: str, x: Array) -> Array:
        convs = recipe.network.get_submodule(f"{net}.convs")
        flat = convs(torch.from_numpy(x).float()).detach().double().numpy().reshape(len(x), size, -1)
        gram: Array = np.einsum("nap,nbp->nab", flat, flat) / flat.shape[2]
        filled = gram.reshape(len(x), -1) @ state[f"{net}.fc.weight"].T + state[f"{net}.fc.bias"]
        square: Array = filled.reshape(len(x), size, size)
        return square

    def transformed(x: Array) -> Array:
        narrow = np.einsum("dc,nchw->ndhw", state["compress.weight"][:, :, 0, 0], x - mean_t)
        narrow += state["compress.bias"][:, None, None]
        moved = np.einsum("nab,nbc,nchw->nahw", style_matrix, content_matrix, narrow)
        wide: Array = np.einsum("cd,ndhw->nchw", state["unzip.weight"][:, :, 0, 0], moved)
        wide += state["unzip.bias"][:, None, None] + mean_s
        return wide

    painting, photo = seen_by(recipe, batch.style), seen_by(recipe, batch.thumbnail)
    mean_s, mean_t = (x["relu3_1"].mean((2, 3), keepdims=True) for x in (painting, photo))
    style_matrix, content_matrix = (
        matrix("snet", painting["relu3_1"] - mean_s),
        matrix("cnet", photo["relu3_1"] - mean_t),
    )
    output = decoded(recipe, transformed(photo["relu3_1"]))
    seen = seen_by(recipe, output)
    style = 0.0
    for name in ("relu1_1", "relu2_1", "relu3_1"):
        own, wanted = seen[name], painting[name]
        grams = [np.einsum("nahw,nbhw->nab", x, x) / x[0].size for x in (own, wanted)]
        style += float(((own.mean((2, 3)) - wanted.mean((2, 3))) ** 2).sum() / len(own))
        style += float(((grams[0] - grams[1]) ** 2).sum() / len(own))
    patch = decoded(recipe, transformed(seen_by(recipe, batch.patch)["relu3_1"]))
    target = enlarged_by_hand(output)[..., 10:42, 4:36]
    stroke = square_error(seen_by(recipe, patch)["relu3_1"], seen_by(recipe, target)["relu3_1"])
    return {"content": square_error(seen["relu3_1"], photo["relu3_1"]), "style": style, "stroke": stroke}


BY_HAND: dict[str, Callable[[ArbitraryRecipe, Batch], dict[str, float]]] = {
    "adain": adain_by_hand,
    "linear-wct": linear_wct_by_hand,
}


@pytest.mark.parametrize("method", METHODS)
def test_losses_against_numpy(workshop: Workshop, method: str) -> None:
    recipe, batch = lively(workshop.recipe(method)), crops()
    got = {name: float(term.detach()) for name, term in recipe.terms(batch, {}, stroke=True).items()}
    expected = BY_HAND[method](recipe, batch)
    assert min(expected.values()) > 1e-4
    assert got == pytest.approx(expected, rel=1e-3)
    assert recipe.terms(batch, {}, stroke=False).keys() == {"content", "style"}


@pytest.mark.parametrize("method", METHODS)
def test_gradient_leaves_the_encoder_alone(workshop: Workshop, method: str) -> None:
    recipe = workshop.recipe(method)
    network = recipe.network
    torch.autograd.backward(list(recipe.terms(crops(), {}, stroke=True).values()))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in network.named_parameters() if not name.startswith("encoder.")}
    for name, parameter in network.named_parameters():
        if name in trained:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("method", METHODS)
def test_the_stroke_term_moves_the_patch_branch_only(workshop: Workshop, method: str) -> None:
    """With output and statistics as constants of their own the gradient is the same; matrices get none of it."""
    recipe, batch = lively(workshop.recipe(method)), crops()
    network = recipe.network
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}

    def gradients(term: Tensor) -> dict[str, Tensor | None]:
        return dict(zip(trained, torch.autograd.grad(term, list(trained.values()), allow_unused=True), strict=True))

    ordinary = gradients(recipe.terms(batch, {}, stroke=True)["stroke"])

    assert batch.style is not None
    deepest = network.encoder.levels[-1]
    with torch.no_grad():
        photo, painting, patch = (
            network.encoder.features(image, [deepest])[deepest] for image in (batch.thumbnail, batch.style, batch.patch)
        )
        statistics = network.of_content(photo), network.of_style(painting)
        output = network.decoder(network.transform(photo, *statistics))
        enlarged = torch.nn.functional.interpolate(output, scale_factor=2, mode="bilinear", align_corners=False)
        wanted = network.encoder.features(enlarged[..., 10:42, 4:36], [deepest])[deepest]
    drawn = network.encoder.features(network.decoder(network.transform(patch, *statistics)), [deepest])[deepest]
    constant = gradients((drawn - wanted).square().mean())
    for name in trained:
        one, other = ordinary[name], constant[name]
        if name.startswith(("snet.", "cnet.")):
            assert one is None
            continue
        assert one is not None
        assert other is not None
        largest = float(other.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * largest)


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_is_normalised_with_its_thumbnails_statistics(
    workshop: Workshop, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, batch = workshop.recipe(method), crops()
    given: list[tuple[Tensor, Statistics, Statistics]] = []
    transform = type(recipe.network).transform

    def spy(network: ArbitraryNetwork, features: Tensor, content: Statistics, style: Statistics) -> Tensor:
        given.append((features, content, style))
        return transform(network, features, content, style)

    monkeypatch.setattr(type(recipe.network), "transform", spy)
    recipe.terms(batch, {}, stroke=True)
    (thumbnail, of_thumbnail, style), (patch, for_patch, style_again) = given
    assert not torch.equal(thumbnail, patch)
    for one, other in zip((*of_thumbnail, *style), (*for_patch, *style_again), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not other.requires_grad
    # A patch's own would be others.
    own = recipe.network.of_content(patch)
    assert all(not torch.allclose(a, b) for a, b in zip(own, for_patch, strict=True))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_resumes_bit_for_bit(workshop: Workshop, method: str) -> None:
    whole = workshop.train(method, "whole")
    totals = [event.total for event in workshop.events if isinstance(event, StepFinished)]
    assert np.mean(totals[-4:]) < 0.9 * np.mean(totals[:4])
    assert (whole.steps, whole.skipped_steps, whole.skipped_paintings, whole.card) == (20, 0, 0, None)
    assert whole.losses.keys() == {"style", "content", "stroke"}

    def stop(event: TrainingEvent) -> None:
        if isinstance(event, StepFinished) and event.step == 13:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_style(
            workshop.photos,
            workshop.paintings,
            workshop.folder / "parts.safetensors",
            encoder=workshop.encoder,
            config=tiny_decoder_config(method),
            callbacks=[stop],
        )
    assert load_checkpoint(workshop.folder / "parts.training" / "checkpoint.pt").step == 10
    parts = workshop.train(method, "parts", resume=True)
    states = [load_checkpoint(workshop.folder / f"{name}.training" / "checkpoint.pt") for name in ("whole", "parts")]
    assert states[0].history == states[1].history
    saved = [load_state_dict(report.weights) for report in (whole, parts)]
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())
    for index, values in states[0].optimizer["state"].items():
        assert all(torch.equal(value, states[1].optimizer["state"][index][name]) for name, value in values.items())


@pytest.mark.parametrize("method", METHODS)
def test_the_file_written_is_the_network_trained(workshop: Workshop, method: str) -> None:
    report = workshop.train(method, steps=3)
    assert read_metadata(report.weights)["method"] == method
    encoder = load_encoder(workshop.encoder).state_dict()
    written = load_state_dict(report.weights)
    assert all(torch.equal(written[f"encoder.{name}"], tensor) for name, tensor in encoder.items())
    # It says nothing of one painting, so that it is in no list of styles.
    assert not (workshop.folder / "tiny.json").exists()
    assert list_styles(workshop.folder) == ()
    said = json.loads((workshop.folder / "tiny.training" / "report.json").read_text())
    assert (said["method"], said["decoder"], said["card"]) == (method, "relu3_1", None)
    assert f"--network {method} --weights" in report.text()
    assert "--style PAINTING" in report.text()

    trained, other = workshop.recipe(method), lively(workshop.recipe(method))
    trained.network.load_state_dict(load_checkpoint(workshop.folder / "tiny.training" / "checkpoint.pt").network)
    other.save(workshop.folder / "other.safetensors", None)
    for recipe, file in ((trained, report.weights), (other, workshop.folder / "other.safetensors")):
        network = recipe.network
        style, photo = picture(32, 32, seed=4), picture(32, 48, seed=5)
        thumbnail, painting = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (photo, style))
        with torch.no_grad():
            features, styled = network.encoder(thumbnail), network.encoder(painting)
            moved = network.transform(features, network.of_content(features), network.of_style(styled))
            expected = network.decoder(moved)
            got = load_network(method, file, style=style, style_size=32).module(thumbnail)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert float(got.std()) > 0.05


def test_a_corrupt_painting_is_told_and_counted(workshop: Workshop) -> None:
    (workshop.paintings / "a.jpg").write_bytes(b"no painting" * 20)
    report = workshop.train("adain", steps=6, batch=2, hold_out=0)
    told = [event.path.name for event in workshop.events if isinstance(event, PaintingSkipped)]
    assert told == ["a.jpg"]
    assert (report.skipped_paintings, report.skipped_photos) == (1, 0)
    assert "1 paintings" in report.text()


def test_one_painting_will_do_and_previews_show_styles(workshop: Workshop) -> None:
    import imagecodecs

    whole = workshop.paintings
    workshop.paintings = write_photo(workshop.folder / "one.tif", picture(40, 90, seed=2))
    workshop.train("linear-wct", steps=2, preview_every=2)
    started = next(event for event in workshop.events if isinstance(event, TrainingStarted))
    assert (started.paintings, started.held_out_paintings, started.decoder) == (1, 0, "relu3_1")
    shown = imagecodecs.png_decode((workshop.folder / "tiny.training" / "preview-000002.png").read_bytes())
    # A row a photo: shrunk, the painting, stylised, and stylised at full size.
    assert shown.shape == (32, 128, 3)
    folder = PaintingFolder(workshop.paintings, largest=64)
    expected = StyleSampler(folder, side=32, batch=1, seed=0).shown(4)[0][0].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(shown[:, 32:64], expected, atol=0.51)
    workshop.paintings = whole
    workshop.events.clear()
    workshop.train("adain", "more", steps=1)
    started = next(event for event in workshop.events if isinstance(event, TrainingStarted))
    assert (started.paintings, started.held_out_paintings) == (3, 1)


def test_crops_of_paintings_depend_on_seed_and_step_alone(workshop: Workshop) -> None:
    one, other = (
        StyleSampler(PaintingFolder(workshop.paintings, largest=48), side=32, batch=2, seed=7) for _ in range(2)
    )
    other.batch(0)
    assert torch.equal(one.batch(5), other.batch(5))
    assert not torch.equal(one.batch(5), one.batch(6))
    assert one.batch(5).shape == (2, 3, 32, 32)


def test_held_out_paintings_are_not_trained_on(workshop: Workshop) -> None:
    folder = PaintingFolder(workshop.paintings, hold_out=4)
    assert (len(folder.held_out), len(folder.paths)) == (1, 3)
    shown = StyleSampler(folder, side=32, batch=1, seed=0).shown(4)
    assert len(shown) == 1


@pytest.mark.parametrize("spelling", ["places", "conv11", "conv1"])
def test_encoders_end_at_the_deepest_level(tmp_path: Path, spelling: str) -> None:
    image = random(1, 3, 32, 32)
    whole = load_encoder(save_encoder(tmp_path / "whole.pth", layers=12)).features(image, ["relu3_1", "relu1_2"])
    for layers, level, stride in ((12, "relu4_1", 8), (9, "relu4_1", 8), (8, "relu3_1", 4), (3, "relu2_1", 2)):
        encoder = load_encoder(save_encoder(tmp_path / "some.pth", layers=layers, spelling=spelling))
        assert (encoder.levels[-1], encoder.layers[-1], encoder.stride) == (level, level, stride)
        found = encoder.features(image, ["relu1_2"])
        torch.testing.assert_close(found["relu1_2"], whole["relu1_2"], rtol=0, atol=0)
        if "relu3_1" in encoder.layers:
            torch.testing.assert_close(encoder.features(image, ["relu3_1"])["relu3_1"], whole["relu3_1"])
        assert untrained_decoder(encoder, 0)(encoder(image)).shape == image.shape


def test_the_decoder_is_the_mirror_and_the_seed_its_own(tmp_path: Path) -> None:
    encoder = load_encoder(save_encoder(tmp_path / "vgg.pth"))
    assert isinstance(encoder, Encoder)
    one, again, other = (untrained_decoder(encoder, seed).state_dict() for seed in (0, 0, 1))
    assert [tuple(tensor.shape[:2]) for name, tensor in one.items() if name.endswith("weight")] == [
        (6, 8),
        (6, 6),
        (4, 6),
        (4, 4),
        (3, 4),
    ]
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_an_encoder_can_come_from_a_file_of_ours(workshop: Workshop) -> None:
    report = workshop.train("adain", steps=1)
    ours, theirs = load_encoder(report.weights).state_dict(), load_encoder(workshop.encoder).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_training_can_begin_with_a_trained_decoder(workshop: Workshop, method: str) -> None:
    first = workshop.train(method, "first", steps=20)
    workshop.events.clear()
    workshop.train(method, "second", steps=1, start=first.weights)
    begun = next(event.total for event in workshop.events if isinstance(event, StepFinished))
    workshop.events.clear()
    workshop.train(method, "third", steps=1)
    assert begun < next(event.total for event in workshop.events if isinstance(event, StepFinished))
    workshop.encoder = save_encoder(workshop.folder / "other.pth", seed=9)
    with pytest.raises(NetworkError, match="another encoder"):
        workshop.train(method, "fourth", steps=1, start=first.weights)


def test_defaults_are_the_papers() -> None:
    adain, linear = TrainingConfig.of("adain"), TrainingConfig.of("linear-wct")
    assert (adain.steps, adain.batch, adain.crop, adain.style_size) == (160_000, 8, 512, 512)
    assert (linear.steps, linear.batch) == (100_000, 8)
    assert adain.rate(0) == linear.rate(0) == pytest.approx(1e-4)
    assert adain.rate(20_000) == pytest.approx(1e-4 / 2)
    assert linear.rate(100_000) == pytest.approx(1e-4 / 2)
    assert (adain.weights.content, adain.weights.style, adain.weights.stroke) == (1.0, 10.0, 1.0)
    assert (linear.weights.content, linear.weights.style, linear.weights.stroke) == (1.0, 0.02, 1.0)
    assert (adain.clip, adain.noise) == (math.inf, 0.0)
    assert TrainingConfig.of("johnson") == TrainingConfig()
    assert TrainingConfig.of("adain", steps=5).steps == 5


def test_errors_are_one_clear_line(workshop: Workshop) -> None:
    def refused(message: str, kind: type[UrstTilesError] = InputError, **changes: object) -> None:
        settings: dict[str, object] = {
            "encoder": workshop.encoder,
            "config": tiny_decoder_config("adain", steps=1),
            **changes,
        }
        paintings = settings.pop("paintings", workshop.paintings)
        out = workshop.folder / "refused.safetensors"
        with pytest.raises(kind, match=message) as caught:
            train_style(workshop.photos, paintings, out, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert not out.exists()

    vgg = save_vgg(workshop.folder / "vgg19.pth")
    refused("needs the weights of its VGG encoder", encoder=None)
    refused("takes no --vgg", vgg=vgg)
    refused("needs the weights of a loss network", encoder=None, config=TrainingConfig())
    empty = workshop.folder / "empty"
    empty.mkdir()
    refused("holds no paintings; put the paintings to train on there", paintings=empty)
    refused("is no folder", paintings=empty / "absent")
    shallow = save_encoder(workshop.folder / "shallow.pth", layers=2)
    refused("ends before relu2_1", NetworkError, encoder=shallow)
    refused("is no VGG encoder of style transfer", NetworkError, encoder=vgg)
    refused("no layer 'relu4_1'", config=tiny_decoder_config("adain", stroke_layer="relu4_1"))
    deep = save_encoder(workshop.folder / "deep.pth", layers=9)
    refused("crop 72 is no multiple of 16", encoder=deep, config=tiny_decoder_config("adain", crop=72))
    with pytest.raises(InputError, match="method 'wct' cannot be trained; there are johnson, adain, linear-wct"):
        TrainingConfig.of("wct")


def test_resuming_with_another_method_is_refused(workshop: Workshop) -> None:
    workshop.train("adain", steps=1)
    with pytest.raises(RunMismatchError, match="a training of method 'adain', not 'linear-wct'"):
        workshop.train("linear-wct", steps=1, resume=True)
    workshop.encoder = save_encoder(workshop.folder / "other.pth", seed=9)
    with pytest.raises(RunMismatchError, match="encoder"):
        workshop.train("adain", steps=1, resume=True)


def test_checkpoints_from_before_there_were_methods_are_johnsons() -> None:
    from urst_tiles.training.checkpoints import TrainingState

    config = TrainingConfig().to_json()
    old = TrainingState({}, {}, {name: value for name, value in config.items() if name != "method"}, {})
    old.check(config, {})
    with pytest.raises(RunMismatchError, match="'johnson', not 'adain'"):
        old.check(TrainingConfig.of("adain").to_json(), {})


def test_lambda_0_and_bfloat16(workshop: Workshop) -> None:
    weights = LossWeights(style=10, content=1, stroke=0)
    report = workshop.train("adain", steps=2, weights=weights, precision="bfloat16")
    finished = [event for event in workshop.events if isinstance(event, StepFinished)]
    assert all(event.losses.keys() == {"style", "content"} and math.isfinite(event.total) for event in finished)
    assert "stroke" in report.losses
    assert load_state_dict(report.weights)["decoder.1.weight"].dtype == torch.float32


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(train_command)
    return application


def words(workshop: Workshop, more: str) -> list[str]:
    tiny = "--crop 64 --style-size 64 --batch 1 --hold-out 1 --device cpu --precision float32 --preview-every 0"
    out = workshop.folder / "mine.safetensors"
    return [str(workshop.photos), str(workshop.paintings), str(out), *tiny.split(), *more.split()]


def test_the_command_trains_a_decoder(workshop: Workshop, app: typer.Typer) -> None:
    more = f"--method adain --encoder {workshop.encoder} --steps 2 --style-weight 3"
    done = CliRunner().invoke(app, words(workshop, f"{more} --json"))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["steps"], said["method"], said["decoder"]) == (2, "adain", "relu3_1")
    assert "decoder from relu3_1" in done.stderr
    # What was not typed is the method's own, not Johnson's.
    config = load_checkpoint(workshop.folder / "mine.training" / "checkpoint.pt").config
    assert (config["learning_rate"], config["schedule"], config["clip"]) == (1e-4, "inverse", math.inf)
    assert (config["weights"]["style"], config["weights"]["content"], config["weights"]["grain"]) == (3, 1, 0)
    again = CliRunner().invoke(app, words(workshop, f"{more} --resume --quiet"))
    assert again.exit_code == 0, again.output
    assert "--network adain --weights" in again.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--method adain", "--encoder"),
        ("--method linear-wct --encoder {encoder} --vgg {encoder}", "takes no --vgg"),
        ("--method adain --encoder {encoder} --width 8 --tone-weight 1", "takes no --width, --tone-weight"),
        ("", "--vgg"),
    ],
)
def test_the_commands_errors(workshop: Workshop, app: typer.Typer, more: str, message: str) -> None:
    done = CliRunner().invoke(app, words(workshop, "--steps 1 " + more.format(encoder=workshop.encoder)))
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_the_help_shows_each_methods_defaults(app: typer.Typer) -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "220"}).output.split())
    assert "4000; adain 160000; linear-wct 100000" in shown
    assert "0.002; adain 0.0001; linear-wct 0.0001" in shown

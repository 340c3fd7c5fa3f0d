"""``urst-tiles train`` as a user types it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.support import picture
from tests.training_support import photo_folder, save_vgg, write_photo
from urst_tiles.errors import InputError
from urst_tiles.styles import load_style
from urst_tiles.training.cli import train_command
from urst_tiles.training.config import LossWeights, TrainingConfig
from urst_tiles.training.events import StepFinished, TrainingStarted
from urst_tiles.training.progress import TrainingProgress, board

TINY = "--crop 64 --style-size 64 --width 4 --batch 1 --hold-out 1 --device cpu --precision float32 --preview-every 0"


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(train_command)
    return application


def words(folder: Path, more: str = "") -> list[str]:
    photos, painting = photo_folder(folder / "photos"), write_photo(folder / "painting.tif", picture(80, 72, seed=9))
    vgg = save_vgg(folder / "vgg.pth")
    return [
        str(photos),
        str(painting),
        str(folder / "mine.safetensors"),
        "--vgg",
        str(vgg),
        *TINY.split(),
        *more.split(),
    ]


def test_train_writes_a_style_with_its_card(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, words(tmp_path, "--steps 2 --title Waves --painter Nobody --year 1889 --json"))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["steps"], said["card"]["title"], said["card"]["year"]) == (2, "Waves", "1889")
    assert load_style("mine", tmp_path).stride == 4
    again = CliRunner().invoke(app, words(tmp_path, "--steps 2 --resume --quiet"))
    assert again.exit_code == 0, again.output
    assert "--network johnson --weights" in again.stdout
    assert again.stderr == ""


def test_errors_are_the_packages_own(app: typer.Typer, tmp_path: Path) -> None:
    given = words(tmp_path, "--steps 2")
    given[0] = str(tmp_path / "absent")
    assert isinstance(CliRunner().invoke(app, given).exception, InputError)


def test_defaults_are_those_of_the_config(app: typer.Typer) -> None:
    command = typer.main.get_command(app)
    defaults = {option.name: option.default for option in command.params}
    config, weights = TrainingConfig(), LossWeights()
    for name in ("steps", "batch", "crop", "style_size", "style_median", "width", "seed", "hold_out", "learning_rate"):
        assert defaults[name] == getattr(config, name)
    assert (defaults["stroke"], defaults["style_weight"]) == (weights.stroke, weights.style)


def test_progress_speaks_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as bar:
        bar(TrainingStarted(0, 200, 38, 4, "relu3_4", "bfloat16"))
        bar(StepFinished(100, 200, {"style": 0.5}, 0.5, 1.0, 1e-3, 0.1))
    said = capsys.readouterr().err
    assert "38 photos, 4 held out; strokes compared at relu3_4; bfloat16" in said
    assert "step 100 of 200: loss 0.500 (style 0.500)" in said


def test_a_board_is_written_where_tensorboard_is_installed(tmp_path: Path) -> None:
    with board(None) as silent:
        silent(StepFinished(1, 2, {"style": 0.5}, 0.5, 1.0, 1e-3, 0.1))
    if find_spec("tensorboard") is None:
        with pytest.raises(InputError, match="TensorBoard is not installed"), board(tmp_path):
            pass
        return
    with board(tmp_path) as told:
        told(StepFinished(1, 2, {"style": 0.5}, 0.5, 1.0, 1e-3, 0.1))
    assert list(tmp_path.iterdir())

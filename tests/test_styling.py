"""Style images: how they are given, scaled, mixed and recoloured; and whole runs with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import picture, tree, write_tiff
from urst_tiles import load_network, stylize, stylize_array
from urst_tiles.cli import main
from urst_tiles.errors import InputError, NetworkError, SourceError
from urst_tiles.networks import METHODS
from urst_tiles.networks.saving import save_state
from urst_tiles.networks.styling import parse_style, read_styles, recoloured
from urst_tiles.networks.weight_files import WeightFiles


@pytest.fixture
def adain(tmp_path: Path) -> Path:
    path = tmp_path / "adain.safetensors"
    save_state(path, "adain", METHODS["adain"].sample(0))
    return path


def painting(path: Path, height: int = 90, width: int = 70, seed: int = 3) -> Path:
    path.write_bytes(imagecodecs.png_encode(picture(height, width, seed=seed)))
    return path


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [("a.jpg", "a.jpg", 1.0), ("a.jpg:0.7", "a.jpg", 0.7), ("b:c.png", "b:c.png", 1.0), ("x:3", "x", 3.0)],
)
def test_a_style_on_the_command_line_may_carry_its_weight(text: str, file: str, weight: float) -> None:
    assert parse_style(text) == (file, weight)


def test_a_file_whose_name_looks_like_a_weight_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    painting(tmp_path / "a:2")
    assert parse_style("a:2") == ("a:2", 1.0)


def test_a_style_image_is_scaled_to_its_short_side_and_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 200  # the square in the middle
    for given_as in (pixels, str(write_tiff(tmp_path / "s.tif", pixels, tile=16)), tmp_path / "s.tif"):
        (image,) = read_styles(given_as, 20)
        assert image.pixels.shape == (20, 20, 3)
        assert (image.pixels == 200).all()
    (larger,) = read_styles(pixels, 64)
    assert larger.pixels.shape == (64, 64, 3)
    assert (larger.pixels[:, 4:-4] == 200).all()


@pytest.mark.parametrize("side", [32, 45])
def test_the_weights_of_styles_add_up_to_1(side: int) -> None:
    one, other = picture(50, 60), picture(60, 50, seed=2)
    images = read_styles([(one, 3), (other, 1)], side)
    assert [image.weight for image in images] == [0.75, 0.25]
    assert [image.weight for image in read_styles([one, other, one], side)] == [1 / 3] * 3
    assert read_styles((one, 5.0), side)[0].weight == 1.0
    assert images[0].tensor.shape == (1, 3, side, side)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), True])
def test_weights_that_make_no_sense(weight: float) -> None:
    with pytest.raises(InputError, match="weight of style"):
        read_styles([(picture(20, 20), weight)], 32)


def test_no_style_and_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no style image"):
        read_styles([], 32)
    with pytest.raises(SourceError):
        read_styles(tmp_path / "missing.jpg", 32)


@given(seed=st.integers(0, 50), dtype=st.sampled_from(["uint8", "uint16"]))
@settings(max_examples=20, deadline=None)
def test_recolouring_gives_the_contents_mean_and_covariance(seed: int, dtype: str) -> None:
    style, content = picture(60, 50, seed=seed), picture(40, 70, dtype=dtype, seed=seed + 100)
    # Calm colours: nothing is clipped at black or white.
    content = (content // 3 + np.iinfo(dtype).max // 3).astype(dtype)
    found = recoloured(style, content)
    top = np.iinfo(content.dtype).max
    ours, wanted = (pixels.reshape(-1, 3) / full for pixels, full in ((found, 255.0), (content, float(top))))
    np.testing.assert_allclose(ours.mean(0), wanted.mean(0), atol=2e-3)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(wanted.T), atol=5e-4)


def test_recolouring_of_blank_pictures_is_finite() -> None:
    blank, other = np.full((20, 20, 3), 90, np.uint8), picture(20, 20)
    assert np.abs(recoloured(blank, other).astype(float) - other.mean((0, 1))).max() <= 1  # its mean colour
    assert (recoloured(other, blank) == 90).all()


def result(source: Any, network: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = stylize_array(source, network, thumbnail=64, window=208).compute()
    return pixels


def test_the_result_keeps_the_rasters_colours_when_asked(tmp_path: Path, adain: Path) -> None:
    """The style that the network gets is the recoloured one: the same run with that image given outright."""
    pixels = picture(120, 150)
    style = painting(tmp_path / "style.png")
    asked = load_network("adain", adain, style=style, style_size=64, preserve_color=True)
    by_hand = load_network(
        "adain", adain, style=recoloured(read_styles(style, 64)[0].pixels, thumbnail(pixels)), style_size=64
    )
    plain = load_network("adain", adain, style=style, style_size=64)
    assert (result(pixels, asked) == result(pixels, by_hand)).all()
    assert (result(pixels, asked) != result(pixels, plain)).any()


def thumbnail(pixels: NDArray[Any]) -> NDArray[Any]:
    from urst_tiles import open_source

    return open_source(pixels).thumbnail(64)


def test_a_recoloured_run_is_taken_up_again(tmp_path: Path, adain: Path) -> None:
    """The recoloured style is made anew from the thumbnail: the same bytes as without the stop."""
    source = write_tiff(tmp_path / "in.tif", picture(300, 310))
    network = load_network("adain", adain, style=painting(tmp_path / "s.png"), style_size=64, preserve_color=True)
    options: dict[str, Any] = {"network": network, "thumbnail": 64, "window": 144}

    class StopError(Exception):
        pass

    def stop_after_two(event: object) -> None:
        if type(event).__name__ == "ShardFinished":
            seen.append(event)
            if len(seen) == 2:
                raise StopError

    seen: list[object] = []
    stylize(source, tmp_path / "whole.zarr", **options)
    with pytest.raises(StopError):
        stylize(source, tmp_path / "out.zarr", callbacks=(stop_after_two,), **options)
    report = stylize(source, tmp_path / "out.zarr", **options)
    assert report.shards_before >= 1
    assert tree(tmp_path / "out.zarr" / "0") == tree(tmp_path / "whole.zarr" / "0")


def test_style_images_on_the_command_line(tmp_path: Path, adain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(100, 130))
    one, other = painting(tmp_path / "a.png"), painting(tmp_path / "b.png", seed=9)
    words = ["stylize", source, tmp_path / "o.zarr", "--network", "adain", "--weights", adain, "--style-size", 64]
    more = ["--style", f"{one}:0.7", "--style", f"{other}:0.3", "--alpha", 0.8, "--preserve-color", "--json", "-q"]
    main([str(word) for word in (*words, *more)])
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["halo"]) == (130, 100, 64)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--style a.png", "shipped"),
        ("--style starry-night --alpha 0.5", "--alpha"),
        ("--network adain --weights adain.safetensors", "needs a style image"),
        ("--network adain --weights adain.safetensors --style missing.png", "missing.png"),
        ("--network adain --weights adain.safetensors --style a.png:0", "above 0"),
        ("--network adain --weights adain.safetensors --style a.png --alpha 2", "alpha 2"),
        ("--network adain --weights adain.safetensors --style a.png --style-size 3", "style image of 3 px"),
        ("--network johnson --weights adain.safetensors", "weights of method 'adain'"),
        ("--network adain --weights nowhere --style a.png", "nowhere"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: str, line: str, tmp_path: Path, adain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("in.tif"), picture(40, 40))
    painting(Path("a.png"))
    with pytest.raises(SystemExit) as stop:
        main(["stylize", "in.tif", "o.zarr", *words.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not Path("o.zarr").exists()


def test_the_networks_command_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    main(["networks", "--json"])
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["networks"]}
    assert listed.keys() == METHODS.keys()
    assert (listed["adain"]["stride"], listed["adain"]["halo"], listed["adain"]["style_image"]) == (8, 64, True)


def test_convert_weights_writes_one_file(tmp_path: Path, adain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    main(["convert-weights", "adain", str(adain), str(out), "--half"])
    assert "out.safetensors" in capsys.readouterr().out
    assert out.stat().st_size < 0.7 * adain.stat().st_size
    load_network("adain", out, style=picture(40, 40), style_size=64)
    with pytest.raises(SystemExit):
        main(["convert-weights", "adain", str(out)])
    assert "ending in .safetensors" in capsys.readouterr().err


def test_weights_are_found_by_name_in_a_folder(tmp_path: Path) -> None:
    for name in ("vgg_normalised.pth", "decoder.pth", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    files = WeightFiles.of(tmp_path)
    assert files.find({"encoder": r"vgg.*\.pth"})["encoder"].name == "vgg_normalised.pth"
    with pytest.raises(NetworkError, match="several files"):
        files.find({"any": r".*\.pth"})
    with pytest.raises(NetworkError, match="has no file"):
        files.find({"modulator": r"modulator.*"})
    with pytest.raises(NetworkError, match="one weights file is wanted"):
        files.single()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NetworkError, match="empty folder"):
        WeightFiles.of(tmp_path / "empty")
    with pytest.raises(NetworkError, match="no such file"):
        WeightFiles.of([tmp_path / "none.pth"])

"""Weights files: every kind there is loads, nothing in them is run, and what is wrong with one is said in a line."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.networks_support import needs_shared, weights
from urst_tiles.errors import NetworkError
from urst_tiles.networks import checkpoints
from urst_tiles.networks.checkpoints import load_state_dict, read_metadata, state_dict_hash

EXAMPLES = int(os.environ.get("URST_TILES_EXAMPLES", "100"))
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, -2.0])}


def save_zip(path: Path, state: object) -> None:
    torch.save(state, path)


def save_legacy(path: Path, state: object) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"epoch": 3, "model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {**s, "epoch": 3},
    ],
    ids=["plain", "state_dict", "model", "nested", "mixed"],
)
def test_tensors_come_back(
    tmp_path: Path, save: Callable[[Path, object], None], wrap: Callable[[object], object]
) -> None:
    path = tmp_path / "w.pth"
    save(path, wrap(STATE))
    loaded = load_state_dict(path)
    assert list(loaded) == list(STATE)
    assert all(torch.equal(loaded[name], STATE[name]) for name in STATE)


def test_safetensors_come_back_with_what_they_say_of_themselves(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"  # recognised by its content, not by its name
    save_file(STATE, path, {"method": "johnson"})
    loaded = load_state_dict(str(path))
    assert all(torch.equal(loaded[name], STATE[name]) for name in STATE)
    assert read_metadata(path) == {"method": "johnson"}
    torch.save(STATE, path)
    assert read_metadata(path) == {}


@needs_shared
@pytest.mark.parametrize(
    "name",
    ["mosaic.pth", "mosaic_urst_original.pth", "mosaic_width16.model", "mosaic_width8.model", "rain_princess.pth"],
)
def test_real_files_load(name: str) -> None:
    assert len(load_state_dict(weights(f"johnson/{name}"))) == 62


class Attack:
    """Unpickled with code allowed, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("save", [save_zip, save_legacy, lambda path, state: path.write_bytes(pickle.dumps(state))])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, save: Callable[[Path, object], None]) -> None:
    target = tmp_path / "was_run"
    path = tmp_path / "evil.pth"
    save(path, {"a.weight": torch.zeros(200), "b": Attack(target)})
    with pytest.raises(NetworkError, match="holds code, not only tensors; it was not executed"):
        load_state_dict(path)
    assert not target.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(nn.Conv2d(3, 3, 3), path)
    with pytest.raises(NetworkError, match=r"holds code.*state_dict\(\)"):
        load_state_dict(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
        archive.writestr("script/data.pkl", b"." * 600)
    with pytest.raises(NetworkError, match="TorchScript"):
        load_state_dict(path)


def cut(path: Path) -> None:
    torch.save({"a.weight": torch.randn(400, 400)}, path)
    path.write_bytes(path.read_bytes()[:200_000])


def cut_legacy(path: Path) -> None:
    save_legacy(path, {"a.weight": torch.randn(400, 400)})
    path.write_bytes(path.read_bytes()[:200_000])


def cut_safetensors(path: Path) -> None:
    save_file({"a.weight": torch.randn(400, 400)}, path)
    path.write_bytes(path.read_bytes()[:200_000])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "empty: 0 bytes"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "missing": (lambda p: None, "cannot be opened: No such file"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 40), "not a weights file or is damaged"),
    "prose": (lambda p: p.write_text("Permission is hereby granted, " * 60), "not a weights file or is damaged"),
    "picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 900), "not a weights file or is damaged"),
    "cut zip": (cut, "not a weights file or is damaged"),
    "cut pickle": (cut_legacy, "not a weights file or is damaged"),
    "cut safetensors": (cut_safetensors, "damaged"),
    "link as text": (lambda p: p.write_text("../../models/mosaic.pth"), "git checked out as a file"),
    "LFS pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6731621\n"),
        "git lfs pull",
    ),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>Quota exceeded</html>" * 30), "web page"),
    "no tensors": (lambda p: torch.save({"epoch": 3, "note": "x" * 700}, p), "holds no weights"),
    "a list": (lambda p: torch.save([torch.zeros(300)], p), "holds no weights"),
    "NaN": (lambda p: torch.save({"a.bias": torch.tensor([1.0, torch.nan])}, p), "NaN or infinity in a.bias"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, kind: str) -> None:
    make, says = DAMAGE[kind]
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(NetworkError, match=says) as caught:
        load_state_dict(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
@given(
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8),
    cut_at=st.one_of(st.none(), st.integers(0)),
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_files_with_a_few_wrong_bytes_load_or_are_refused_in_one_line(
    save: Callable[..., object], changes: list[tuple[int, int]], cut_at: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        save(*((STATE, path) if save is save_file else (path, STATE)))
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[place % len(data)] = value
        path.write_bytes(data if cut_at is None else data[: cut_at % len(data)])
        try:
            load_state_dict(path)
            said = None
        except NetworkError as error:
            said = str(error)
        assert said is None or re.fullmatch(rf"[^\n]*{re.escape(str(path))}[^\n]{{,300}}", said)


def test_size_is_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tmp_path / "huge.pth"
    with huge.open("wb") as file:
        file.truncate((4 << 30) + 1)  # sparse: takes no disk
    with pytest.raises(NetworkError, match=r"has 4.0 GiB"):
        load_state_dict(huge)

    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 200_000)
    monkeypatch.setattr(checkpoints, "LARGEST_FILE", 100_000)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(NetworkError, match="unpacks to"):
        load_state_dict(bomb)


def test_the_hash_is_of_names_types_shapes_and_values() -> None:
    reference = state_dict_hash(STATE)
    assert state_dict_hash(dict(reversed(STATE.items()))) == reference
    others: list[dict[str, Tensor]] = [
        {**STATE, "a.bias": STATE["a.bias"] + 1},
        {**STATE, "a.bias": STATE["a.bias"].double()},
        {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)},
        {"b.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]},
        {"a.weight": STATE["a.weight"]},
    ]
    assert len({reference, *(state_dict_hash(state) for state in others)}) == 6
    assert state_dict_hash({"n": torch.tensor(3), "h": torch.zeros(2, dtype=torch.bfloat16)})
    transposed = {**STATE, "a.weight": STATE["a.weight"].t().contiguous().t()}
    assert state_dict_hash(transposed) == reference

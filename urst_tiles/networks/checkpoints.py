"""Reading weights: tensors by name from a file, and nothing else. No code in a file is ever run.

Files come as PyTorch's zip format, its older pickle format, safetensors or Torch7's binary format; a state dict may be
wrapped ({"state_dict": …}).
"""

from __future__ import annotations

import hashlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from urst_tiles.errors import NetworkError, reason_of
from urst_tiles.networks.torch7 import looks_like_torch7, read_torch7

__all__ = ["LARGEST_FILE", "load_state_dict", "read_metadata", "state_dict_hash"]

LARGEST_FILE = 4 << 30
"""Bytes. The largest published style network is under 100 MB."""

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "generator", "params", "weights")
_SMALLEST_PICKLE = 512
"""Bytes. No file of weights is shorter; a link saved as text is."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, in the file's types.

    Raises:
        NetworkError: the file is missing, too large, damaged, holds no tensors, or holds code.
    """
    path = Path(path)
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(_SMALLEST_PICKLE)
    _refuse_text(path, head, size)
    if looks_like_torch7(head):
        loaded: object = read_torch7(path)
    else:
        loaded = _safetensors(path) if _is_safetensors(head, size) else _pickled(path)
    state = _unwrap(loaded)
    if not state:
        raise NetworkError(f"{path} holds no weights: a {type(loaded).__name__} without named tensors")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise NetworkError(f"{path} holds NaN or infinity in {broken[0]}: the training that wrote it diverged")
    return state


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself; empty for other files."""
    path = Path(path)
    size = _size(path)
    with path.open("rb") as file:
        if not _is_safetensors(file.read(16), size):
            return {}
    try:
        with safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{path} is a damaged safetensors file: {reason_of(error)}") from error


def state_dict_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _size(path: Path) -> int:
    if path.is_dir():
        raise NetworkError(f"{path} is a folder; give the weights file in it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NetworkError(f"weights {path} cannot be opened: {error.strerror}") from error
    if size == 0:
        raise NetworkError(f"{path} is empty: 0 bytes. Download it again")
    if size > LARGEST_FILE:
        raise NetworkError(f"{path} has {size / 2**30:.1f} GiB; weights have at most {LARGEST_FILE >> 30} GiB")
    return size


def _refuse_text(path: Path, head: bytes, size: int) -> None:
    """Files that a checkout or a download left in the place of the real one."""
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise NetworkError(f"{path} is a Git LFS pointer, not the weights themselves; run: git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise NetworkError(
            f"{path} is a web page, not weights: the download link led to a page. Download the file itself"
        )
    if size < _SMALLEST_PICKLE and head.isascii() and head.decode("ascii").strip().isprintable():
        target = head.decode("ascii").strip()
        raise NetworkError(
            f"{path} is a text of {size} bytes ({target[:60]!r}), most likely a symbolic link that git checked out "
            "as a file; copy the file it names to its place"
        )


def _is_safetensors(head: bytes, size: int) -> bool:
    """A length of 8 bytes that fits into the file, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise NetworkError(f"{path} is a damaged safetensors file: {reason_of(error)}") from error


def _pickled(path: Path) -> object:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of newer pickle protocols, which it then refuses below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        # weights_only reads tensors and plain containers; anything else it names and does not call. It gives up on
        # newer pickles before it comes that far.
        if "GLOBAL" in str(error) or _names_code(path):
            raise NetworkError(
                f"{path} holds code, not only tensors; it was not executed. Convert it in an environment you trust: "
                "torch.save(network.state_dict(), 'weights.pth')"
            ) from error
        # PyTorch's own text would advise to run what is in the file.
        raise NetworkError(f"{path} is not a weights file or is damaged: its pickle cannot be read") from error
    except MemoryError as error:
        raise NetworkError(f"{path} claims more tensors than fit into memory: the file is damaged") from error
    except Exception as error:
        raise NetworkError(f"{path} is not a weights file or is damaged: {reason_of(error)}") from error


def _names_code(path: Path) -> bool:
    """Whether a file is a pickle, to its last instruction, that names something to call. Runs nothing."""
    try:
        with path.open("rb") as file:
            names = {instruction.name for instruction, _, _ in pickletools.genops(file)}
    except (ValueError, IndexError, UnicodeError):
        return False
    return not names.isdisjoint({"GLOBAL", "STACK_GLOBAL", "INST"})


def _check_archive(path: Path) -> None:
    """A zip may unpack to far more than it weighs; PyTorch's own are not compressed."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
    # Of a damaged directory: names that are no text, versions that there are not, lengths beyond its end.
    except Exception as error:
        raise NetworkError(f"{path} is a damaged archive: {reason_of(error)}. Download it again") from error
    if unpacked > LARGEST_FILE:
        raise NetworkError(
            f"{path} unpacks to {unpacked / 2**30:.1f} GiB; weights have at most {LARGEST_FILE >> 30} GiB"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise NetworkError(
            f"{path} holds code, not only tensors: it is a TorchScript archive; it was not executed. "
            "Save its state_dict() instead"
        )


def _unwrap(loaded: Any) -> dict[str, Tensor]:
    """The innermost dictionary of tensors; counters and settings beside it are dropped."""
    while isinstance(loaded, Mapping):
        state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        if state:
            return state
        inner = [loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)]
        if not inner:
            return {}
        loaded = inner[0]
    return {}

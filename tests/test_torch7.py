"""Torch7 files: what is in them comes back by name; what is damaged is refused quickly, and nothing is run."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.torch7_support import Function, Module, Writer, as_torch7, sequential
from urst_tiles.errors import NetworkError
from urst_tiles.networks.checkpoints import load_state_dict
from urst_tiles.networks.torch7 import looks_like_torch7, read_torch7

STATE = {"0.weight": torch.randn(3, 3, 1, 1), "0.bias": torch.randn(3), "2.weight": torch.randn(4, 3, 3, 3)} | {
    "2.bias": torch.randn(4)
}


def loaded(tmp_path: Path, data: bytes) -> dict[str, Tensor]:
    path = tmp_path / "net.t7"
    path.write_bytes(data)
    return load_state_dict(path)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("long", [8, 4])
def test_a_network_is_named_as_pytorch_would(tmp_path: Path, long: int) -> None:
    read = loaded(tmp_path, as_torch7(sequential(STATE, places=4), long))
    assert equal(read, STATE)
    assert all(tensor.is_contiguous() for tensor in read.values())


def test_bytes_by_hand(tmp_path: Path) -> None:
    """One file written out without the tests' own writer: {w = FloatTensor{{1, 2}, {3, 4}}}."""
    data = struct.pack("<3i", 3, 1, 1) + struct.pack("<2i", 2, 1) + b"w"
    data += struct.pack("<3i", 4, 2, 3) + b"V 1" + struct.pack("<i", 17) + b"torch.FloatTensor"
    data += struct.pack("<i5q", 2, 2, 2, 2, 1, 1)
    data += struct.pack("<3i", 4, 3, 3) + b"V 1" + struct.pack("<i", 18) + b"torch.FloatStorage"
    data += struct.pack("<q4f", 4, 1, 2, 3, 4)
    assert equal(loaded(tmp_path, data), {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})


def test_types_views_and_nesting(tmp_path: Path) -> None:
    flat = torch.arange(24.0, dtype=torch.float64)
    inner = Module("nn.Sequential", {"modules": [Module("nn.Linear", {"weight": flat[4:10].view(2, 3)})]})
    content = {
        "model": Module("nn.Sequential", {"modules": [Module("nn.ReLU"), inner]}),
        "transposed": flat[:6].view(2, 3).T,
        "one": flat[5:6].view(1, 1),
        "counts": torch.tensor([1, 2**31 - 1]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "empty": torch.empty(0),
        "list": [torch.ones(1), {"deep": torch.zeros(1)}],
        "note": "text",
        True: None,
        2.5: torch.ones(2),
    }
    for long in (8, 4):
        read = loaded(tmp_path, as_torch7(content, long))
        assert torch.equal(read["model.1.0.weight"], flat[4:10].view(2, 3))
        assert read["model.1.0.weight"].dtype == torch.float64
        assert torch.equal(read["transposed"], flat[:6].view(2, 3).T)
        assert read["one"].tolist() == [[5.0]]
        assert read["counts"].tolist() == [1, 2**31 - 1]
        assert read["bytes"].tolist() == [0, 255]
        assert read["list.1.deep"].tolist() == [0.0]
        assert set(read) == {"model.1.0.weight", "transposed", "one", "counts", "bytes", "list.0", "list.1.deep", "2.5"}


def test_cycles_shared_parts_and_functions(tmp_path: Path) -> None:
    shared = torch.ones(2)
    table: dict[str, Any] = {
        "a": shared,
        "again": shared,
        "f": Function(b"\x1bLua", [1, 2]),
        "old": Function(b"", kind=6),
    }
    table["self"] = table
    layer = Module("nn.Linear", {"weight": torch.zeros(1)})
    layer.fields["modules"] = [layer, layer]
    read = loaded(tmp_path, as_torch7({**table, "legacy": Function(b"x", kind=7), "layer": layer}))
    assert list(read) == ["a", "again", "self.a", "self.again", "layer.weight"]
    old = Module("nn.Linear", {"weight": torch.ones(1)}, version="")  # before classes had versions
    assert list(loaded(tmp_path, as_torch7([old]))) == ["0.weight"]


def test_shared_tables_do_not_multiply(tmp_path: Path) -> None:
    """30 tables, each holding the next twice: 2^30 paths."""
    table: dict[str, Any] = {"end": torch.ones(1)}
    for _ in range(30):
        table = {"a": table, "b": table}
    assert list(loaded(tmp_path, as_torch7(table))) == [".".join("a" * 30) + ".end"]


def test_a_convolution_kept_as_a_matrix(tmp_path: Path) -> None:
    weight = torch.randn(4, 2, 3, 3)
    fields = {"weight": weight.reshape(4, 18), "nInputPlane": 2, "nOutputPlane": 4, "kW": 3, "kH": 3}
    read = loaded(
        tmp_path, as_torch7(Module("nn.Sequential", {"modules": [Module("nn.SpatialConvolutionMM", fields)]}))
    )
    assert equal(read, {"0.weight": weight})
    fields["kW"] = 5
    read = loaded(
        tmp_path, as_torch7(Module("nn.Sequential", {"modules": [Module("nn.SpatialConvolutionMM", fields)]}))
    )
    assert read["0.weight"].shape == (4, 18)


def header(kind: str, *sizes: int) -> bytes:
    """A tensor's beginning: sizes, strides and offset as given."""
    name = f"torch.{kind}".encode()
    start = struct.pack("<3i", 3, 1, 1) + struct.pack("<2i", 2, 1) + b"w" + struct.pack("<3i", 4, 2, 3) + b"V 1"
    return start + struct.pack("<i", len(name)) + name + struct.pack(f"<i{len(sizes)}q", len(sizes) // 2, *sizes)


def storage(count: int, *numbers: float) -> bytes:
    name = b"torch.FloatStorage"
    start = struct.pack("<3i", 4, 3, 3) + b"V 1" + struct.pack("<i", len(name)) + name
    return start + struct.pack(f"<q{len(numbers)}f", count, *numbers)


def nested(depth: int) -> bytes:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return as_torch7(value)


def claims_many(count: int) -> bytes:
    """Many tensors that are each the whole of one storage."""
    flat = torch.ones(10_000)
    return as_torch7([flat.view(100, 100) for _ in range(count)])


DAMAGE: dict[str, tuple[bytes, str]] = {
    "table": (struct.pack("<3i", 3, 1, 2**31 - 1), "a table of 2147483647 entries"),
    "negative table": (struct.pack("<3i", 3, 1, -1), "a table of -1 entries"),
    "string": (struct.pack("<5i", 3, 1, 1, 2, 2**30) + b"x" * 8, "it wants 1073741824 bytes"),
    "storage": (header("FloatTensor", 2, 1, 1) + storage(2**60, 1, 2), "wants 4611686018427387904 bytes"),
    "negative storage": (header("FloatTensor", 2, 1, 1) + storage(-1), "a storage of -1 numbers"),
    "size": (header("FloatTensor", 3, 1, 1) + storage(2, 1, 2), r"sizes \[3\] in a storage of 2"),
    "size 0": (header("FloatTensor", 0, 1, 1) + storage(2, 1, 2), r"sizes \[0\]"),
    "negative size": (header("FloatTensor", -3, 1, 1) + storage(2, 1, 2), r"sizes \[-3\]"),
    "stride 0": (header("FloatTensor", 2**40, 0, 1) + storage(2, 1, 2), "in a storage of 2"),
    "huge stride": (header("FloatTensor", 2, 2**62, 1) + storage(2, 1, 2), "in a storage of 2"),
    "negative stride": (header("FloatTensor", 2, -1, 2) + storage(2, 1, 2), "strides"),
    "offset 0": (header("FloatTensor", 2, 1, 0) + storage(2, 1, 2), "in a storage of 2"),
    "no storage": (header("FloatTensor", 2, 1, 1) + struct.pack("<i", 0), "in a storage of 0"),
    "other storage": (header("DoubleTensor", 2, 1, 1) + storage(2, 1, 2), "without a storage of its type"),
    "dimensions": (header("FloatTensor", *([1] * 41)), "a tensor of 20 dimensions"),
    "unknown numbers": (header("QuadTensor", 2, 1, 1) + storage(2, 1, 2), "without a storage|not known"),
    "unknown type": (struct.pack("<6i", 3, 1, 1, 99, 0, 0), "type 99, which there is not"),
    "left over": (as_torch7({"a": torch.ones(1)}) + b"\0", "1 bytes are left over"),
    "too deep": (nested(70), "objects inside each other"),
    "too much shared": (claims_many(50), "4 times as large as the file"),
    "the same name": (as_torch7({"1": {"b": torch.ones(1)}, "1.b": torch.ones(2)}), "two of its tensors"),
    "long name": (as_torch7({"n" * 600: torch.ones(1)}), "a name of 600 characters"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_said_in_one_line(tmp_path: Path, kind: str) -> None:
    data, says = DAMAGE[kind]
    started = time.perf_counter()
    with pytest.raises(NetworkError, match=says) as caught:
        loaded(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "net.t7"))
    assert time.perf_counter() - started < 2


def test_a_huge_stride_of_a_single_row_does_no_harm(tmp_path: Path) -> None:
    read = loaded(tmp_path, header("FloatTensor", 1, 2, 2**62, 1, 1) + storage(2, 1, 2))
    assert read["w"].tolist() == [[1.0, 2.0]]


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"text form.*binary"):
        loaded(tmp_path, b"4\n1\n3\nV 1\n13\nnn.Sequential\n" + b"3\n2\n0\n" * 100)
    with pytest.raises(NetworkError, match="holds no weights"):
        loaded(tmp_path, as_torch7({"note": "x"}))
    with pytest.raises(NetworkError, match="holds no weights"):
        loaded(tmp_path, as_torch7(torch.ones(3)))
    with pytest.raises(NetworkError, match="NaN or infinity in a"):
        loaded(tmp_path, as_torch7({"a": torch.tensor([torch.inf])}))
    with pytest.raises(NetworkError, match="cannot be opened"):
        read_torch7(tmp_path / "none.t7")
    torch.save(STATE, tmp_path / "net.t7")  # told apart by content: many .t7 files are PyTorch's
    assert not looks_like_torch7((tmp_path / "net.t7").read_bytes()[:16])
    assert equal(load_state_dict(tmp_path / "net.t7"), STATE)


SMALL = as_torch7(
    Module("nn.Sequential", {"modules": [Module("nn.Linear", {"weight": torch.ones(1, 2), "bias": torch.ones(1)})]})
)


def outcome(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    try:
        read_torch7(path)
    except NetworkError:
        return "refused"
    return "read"


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    started = time.perf_counter()
    assert {outcome(tmp_path / "cut.t7", SMALL[:end]) for end in range(len(SMALL))} == {"refused"}
    assert outcome(tmp_path / "whole.t7", SMALL) == "read"
    assert time.perf_counter() - started < 30


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """Every byte in turn, and bytes in combination: no other error, no hang, no memory taken."""
    rng = random.Random(0)
    started = time.perf_counter()
    seen = set()
    for round_ in range(1500):
        data = bytearray(SMALL)
        for place in [round_ % len(data)] + [rng.randrange(len(data)) for _ in range(rng.randrange(3))]:
            data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        seen.add(outcome(tmp_path / "flipped.t7", bytes(data)))
    assert seen == {"read", "refused"}
    assert time.perf_counter() - started < 30


def test_the_writer_writes_longs_of_the_width_asked() -> None:
    assert len(as_torch7(torch.ones(1), 8)) - len(as_torch7(torch.ones(1), 4)) == 4 * 4
    assert Writer(4).form == "<i"

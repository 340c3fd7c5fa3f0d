"""The ledger through crashes: whole records count, torn ones do not, nothing after them is lost; files and objects."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urst_tiles.errors import StoreError
from urst_tiles.ledger import FileLog, Ledger, Log, ObjectLog, Record
from urst_tiles.objects import Objects

CRC = st.integers(0, 2**32 - 1)
RECORDS = st.lists(st.builds(Record, st.integers(0, 5), st.integers(0, 2000), CRC, CRC, st.booleans()), max_size=12)
SIZE = 28


def in_file(folder: Path) -> Callable[[], Log]:
    return lambda: FileLog(folder / "main.log")


def in_objects(_: Path) -> Callable[[], Log]:
    url = f"memory://ledger-{uuid.uuid4().hex}/o.zarr"
    return lambda: ObjectLog(Objects(url), "urst/ledger")


BOTH = pytest.mark.parametrize("kind", [in_file, in_objects])


@given(records=RECORDS, cut=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_a_ledger_cut_anywhere_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], cut: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "main.log"
    with Ledger(FileLog(path)) as ledger:
        for record in records:
            ledger.add(record)
    size = path.stat().st_size
    assert size == SIZE * len(records)
    path.write_bytes(path.read_bytes()[:cut])
    kept = records[: min(cut, size) // SIZE]
    with Ledger(FileLog(path)) as ledger:
        assert list(ledger.records()) == kept
        ledger.add(Record(0, 3, 1, 2))
    with Ledger(FileLog(path)) as ledger:
        assert list(ledger.records()) == [*kept, Record(0, 3, 1, 2)]
        for record in kept:
            assert (record.level, record.index) in ledger


@given(records=RECORDS)
@settings(max_examples=30, deadline=None)
def test_what_one_process_adds_another_one_finds(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    """Those that were there when it opened, and those added since, each as it was written last."""
    folder = tmp_path_factory.mktemp("ledger")
    last = {(record.level, record.index): record for record in records}
    if len(last) < len(records):
        records = list(last.values())  # an object has one record, a file may have several of a shard
    half = len(records) // 2
    objects = in_objects(folder)
    for mine, theirs in (
        (FileLog(folder / "part-1-of-2.log"), FileLog(folder / "part-2-of-2.log")),
        (objects(), objects()),
    ):
        with Ledger(mine) as writer:
            for record in records[:half]:
                writer.add(record)
            with Ledger(theirs) as reader:
                assert sum(map(reader.count, range(6))) == half
                for record in records[half:]:
                    writer.add(record)
                assert sum(map(reader.count, range(6))) == half
                reader.refresh()
                for record in records:
                    assert (record.level, record.index) in reader
                    assert reader.is_empty(record.level, record.index) == record.empty
                assert sum(map(reader.count, range(6))) == len(records)
                assert sum(map(reader.count_empty, range(6))) == sum(record.empty for record in records)
                assert sorted(map(str, reader.records())) == sorted(map(str, records))


def test_a_ledger_of_earlier_versions_is_read(tmp_path: Path) -> None:
    body = struct.pack("<4sIQII", b"UTL1", 2, 7, 11, 13)
    (tmp_path / "main.log").write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    with Ledger(FileLog(tmp_path / "main.log")) as ledger:
        assert list(ledger.records()) == [Record(2, 7, 11, 13)]
        assert not ledger.is_empty(2, 7)


def test_a_record_with_a_flipped_bit_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    with Ledger(FileLog(path)) as ledger:
        for index in range(3):
            ledger.add(Record(0, index))
    data = bytearray(path.read_bytes())
    data[SIZE + 10] ^= 4
    path.write_bytes(data)
    with Ledger(FileLog(path)) as ledger:
        assert [index for index in range(4) if (0, index) in ledger] == [0, 2]
        assert ledger.count(0) == 2


def test_a_record_that_becomes_whole_later_counts_then(tmp_path: Path) -> None:
    """Another process appends while this one reads."""
    other, data = tmp_path / "part-1-of-2.log", b"".join(Record(0, index).pack() for index in range(4))
    other.write_bytes(data[: SIZE + 5])
    with Ledger(FileLog(tmp_path / "main.log")) as ledger:
        assert ledger.count(0) == 1
        other.write_bytes(data[: 2 * SIZE + 1])
        ledger.refresh()
        assert ledger.count(0) == 2
        other.write_bytes(data)
        ledger.refresh()
        assert ledger.count(0) == 4


def test_objects_that_are_no_records_do_not_count() -> None:
    url = f"memory://ledger-{uuid.uuid4().hex}/o.zarr"
    whole = Record(0, 1, 5, 6).pack()
    flipped = bytes([*whole[:9], whole[9] ^ 1, *whole[10:]])
    litter = {"0/1": whole, "0/2": whole, "0/3": whole[:20], "0/4": b"", "0/5": flipped, "0/note": whole, "1": whole}
    for name, data in litter.items():
        fsspec.filesystem("memory").pipe_file(f"{url}/urst/ledger/{name}", data)
    with Ledger(ObjectLog(Objects(url), "urst/ledger")) as ledger:
        assert list(ledger.records()) == [Record(0, 1, 5, 6)]
        assert ledger.count(0) == 1


@BOTH
def test_forgotten_shards_are_not_done(tmp_path: Path, kind: Callable[[Path], Callable[[], Log]]) -> None:
    log = kind(tmp_path)
    with Ledger(log()) as ledger:
        for index, empty in ((6, False), (7, False), (8, True)):
            ledger.add(Record(1, index, empty=empty))
        there = bytearray(ledger.size(1))
        there[6] = 1
        ledger.keep(1, there)
        ledger.refresh()  # whatever the log says
        assert [index for index in range(10) if (1, index) in ledger] == [6, 8]
        assert ledger.gone(1) == [7]
        assert ledger.gone(0) == []
        ledger.add(Record(1, 7))
        assert (1, 7) in ledger
        assert ledger.gone(1) == []
        assert (0, 7) not in ledger
        assert ledger.count(1, range(7, 9)) == 2
        assert ledger.count_empty(1, range(7, 9)) == ledger.count_empty(1) == 1


def test_a_ledger_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the ledger"):
        Ledger(FileLog(tmp_path / "file" / "main.log"))

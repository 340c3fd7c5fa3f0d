"""The ledger through crashes: whole records count, torn ones do not, nothing after them is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urst_tiles.errors import StoreError
from urst_tiles.ledger import Ledger, Record

RECORDS = st.lists(
    st.builds(Record, st.integers(0, 5), st.integers(0, 2000), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    max_size=12,
)


@given(records=RECORDS, cut=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_a_ledger_cut_anywhere_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], cut: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "main.log"
    with Ledger(path) as ledger:
        for record in records:
            ledger.add(record)
    size = path.stat().st_size
    length = size // len(records) if records else 1
    path.write_bytes(path.read_bytes()[:cut])
    kept = records[: min(cut, size) // length]
    with Ledger(path) as ledger:
        assert list(ledger.records()) == kept
        ledger.add(Record(0, 3, 1, 2))
    with Ledger(path) as ledger:
        assert list(ledger.records()) == [*kept, Record(0, 3, 1, 2)]
        for record in kept:
            assert (record.level, record.index) in ledger


def test_a_record_with_a_flipped_bit_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    with Ledger(path) as ledger:
        for index in range(3):
            ledger.add(Record(0, index))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 + 10] ^= 4
    path.write_bytes(data)
    with Ledger(path) as ledger:
        assert [index for index in range(4) if (0, index) in ledger] == [0, 2]
        assert ledger.count(0) == 2


def test_forgotten_shards_are_not_done(tmp_path: Path) -> None:
    with Ledger(tmp_path / "main.log") as ledger:
        ledger.add(Record(1, 7))
        ledger.forget(1, 7)
        assert (1, 7) not in ledger
        ledger.add(Record(1, 7))
        assert (1, 7) in ledger
        assert (0, 7) not in ledger


def test_a_ledger_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the ledger"):
        Ledger(tmp_path / "file" / "main.log")

"""Errors survive the trip through a scheduler, which pickles them; what others said fits into a line of ours."""

from __future__ import annotations

import pickle

import pytest

from urst_tiles import errors


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name not in ("MemoryBudgetError", "reason_of")])
def test_errors_pickle(name: str) -> None:
    error = pickle.loads(pickle.dumps(getattr(errors, name)("one line")))
    assert isinstance(error, errors.UrstTilesError)
    assert str(error) == "one line"


def test_the_smallest_budget_survives_too() -> None:
    error = pickle.loads(pickle.dumps(errors.MemoryBudgetError("too small", smallest=7)))
    assert error.smallest == 7
    assert str(error) == "too small"


def test_what_others_said_is_one_line_that_is_not_long() -> None:
    assert errors.reason_of(ValueError(" a\n  b ")) == "a b"
    assert errors.reason_of(KeyError()) == "KeyError"
    long = errors.reason_of(ValueError("x" * 5000))
    assert long == "x" * 199 + "…"

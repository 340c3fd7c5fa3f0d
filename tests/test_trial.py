"""How fast a network runs here: as many pictures at the same time as a run makes calls, and none that are too small."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from urst_tiles import trial
from urst_tiles.engines import Piece
from urst_tiles.trial import seconds_per_pixel

FROZEN: Any = SimpleNamespace(minimum=4, stride=4)


class Together:
    """An engine whose clock goes on by so many seconds for each of so many calls, which must come at the same time."""

    def __init__(self, calls: int, seconds: Callable[[int], float]) -> None:
        self._calls, self._seconds = threading.Barrier(calls), seconds
        self._lock = threading.Lock()
        self.now, self.sides = 0.0, list[int]()

    def run(self, pieces: Sequence[Piece], on_taken: Callable[[], None] | None = None) -> None:
        side = pieces[0].window.shape[0]
        if side > FROZEN.minimum:  # the first one sets up what the others use
            self._calls.wait(60)
        with self._lock:
            self.sides.append(side)
            self.now += self._seconds(side)


def tried(engine: Together, monkeypatch: pytest.MonkeyPatch, **options: Any) -> float:
    monkeypatch.setattr(trial, "make_engine", lambda *_, **__: engine)
    monkeypatch.setattr("time.perf_counter", lambda: engine.now)
    wanted: dict[str, Any] = {"window": 1064, "device": "cpu", "precision": "float32"} | options
    return seconds_per_pixel(FROZEN, **wanted)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_pixel_takes_what_pictures_that_run_together_take(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Together(calls, lambda side: side**2 * 1e-5)
    assert tried(engine, monkeypatch, calls=calls) == pytest.approx(1e-5)
    assert engine.sides == [4, *[256] * 2 * calls]  # twice: the first time, memory is new


def test_what_takes_little_is_run_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.0, 0.06, 0.05, 0.03, 0.04])
    engine = Together(1, lambda _: next(took))
    assert tried(engine, monkeypatch) == pytest.approx(0.03 / 256**2)
    assert engine.sides == [4, *[256] * 4]  # until it has taken long enough


@pytest.mark.parametrize(("window", "sides"), [(1064, [256, 512, 1024]), (600, [256, 512, 600]), (64, [64])])
def test_larger_pictures_are_tried_where_small_ones_take_no_time(
    window: int, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Together(1, lambda side: side**2 * 1e-9)
    assert tried(engine, monkeypatch, window=window) == pytest.approx(1e-9)
    assert engine.sides == [4, *[side for side in sides for _ in range(5)]]


def test_what_takes_long_at_once_counts_less_than_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.0, 5.0, 1.0])
    engine = Together(1, lambda _: next(took))
    assert tried(engine, monkeypatch) == pytest.approx(1.0 / 256**2)

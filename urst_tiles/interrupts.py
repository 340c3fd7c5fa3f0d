"""Ctrl-C and SIGTERM on the command line: once to stop where the run can be gone on with, twice to stop now."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from urst_tiles.errors import RunStopped

__all__ = ["Interrupted", "StopFlag", "stop_on_signals"]

_ONCE = "stopping when the work in flight is on disk; once more (Ctrl-C) stops now"
_TWICE = "stopped; the same command goes on where it stopped"


class Interrupted(Exception):  # noqa: N818  (not an error: what was asked for)
    """The run stopped because a signal asked it to; ``status`` is the exit status that says so."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class StopFlag:
    """Says whether a signal has arrived; given to :func:`~urst_tiles.stylize` as ``stop``."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The signals' handler. Stopping now needs no farewell: whatever is not whole on disk does not count."""
        if self.signal is None:
            self.signal = number
            _say(_ONCE)
        else:
            _say(_TWICE, last=True)
            os._exit(128 + number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Within it, SIGINT and SIGTERM set the flag that it gives; the second one ends the process.

    Raises:
        Interrupted: in place of the RunStopped that the flag brought about.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may receive signals
        return
    before = {number: signal.signal(number, flag.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    except RunStopped as stopped:
        if flag.signal is None:
            raise
        raise Interrupted(str(stopped), 128 + flag.signal) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str, *, last: bool = False) -> None:
    """A line on stderr, past Python's buffers: the handler may have interrupted a write to them.

    On a terminal it takes the place of the progress bar, which draws itself again below it.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        text = f"{line}\n"
    else:
        text = f"\r\x1b[2K{line}\n" + ("\x1b[?25h" if last else "")  # the bar hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, text.encode())

"""Checks that load another runtime beside PyTorch, each file in a process of its own: what such a runtime leaves behind
in a process is not for the tests after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "isolated"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("check_*.py")))
def test_in_a_process_of_its_own(name: str) -> None:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/isolated/{name}"]
    done = subprocess.run(words, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip("what it checks is not installed here (--extra engines)")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

"""Large blocks of PyTorch come in pages of 2 MiB, where Linux gives them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

CODE = """
import sys
import urst_tiles, torch
block = torch.ones(64 * 2**20, dtype=torch.uint8)
huge = [line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(int(huge[0]) * 1024)
"""


@pytest.mark.skipif(not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this system gives none")
@pytest.mark.parametrize(("said", "given"), [(None, True), ("0", False)])
def test_large_blocks_come_in_huge_pages_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, said: str | None, *, given: bool
) -> None:
    if said is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    else:
        if "[always]" in SETTING.read_text():
            pytest.skip("this system gives them to everybody")
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", said)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 48 * 2**20) == given

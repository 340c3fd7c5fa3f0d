"""Several runs in threads of one process: none sees the others, and nothing of the process is left changed."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import dask
import pytest

from tests.stores_support import digests
from urst_tiles import load_style, stylize
from urst_tiles.clusters import local_client
from urst_tiles.demo import make_raster


@pytest.mark.parametrize("engine", ["torch", "llvm"])
def test_runs_at_once_with_one_network_give_the_bytes_of_one_alone(
    tmp_path: Path, engine: Literal["torch", "llvm"]
) -> None:
    if engine == "llvm":
        pytest.importorskip("llvmlite")
    network = load_style("starry-night")
    make_raster(tmp_path / "in.tif", 400, 300)

    def run(name: str) -> dict[str, str]:
        stylize(tmp_path / "in.tif", tmp_path / name, network=network, window=256, engine=engine)
        return digests(tmp_path / name / "0")

    alone = run("alone.zarr")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, (f"{number}.zarr" for number in range(4))))
    assert found == [alone] * 4


def test_clusters_that_live_at_once_leave_dask_as_it_was() -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    logging.getLogger("distributed").addHandler(handler)
    before = dask.config.get("distributed.worker.profile.enabled")
    try:
        first, second = local_client(1), local_client(1)
        first.__enter__()
        assert handler.level == logging.ERROR
        second.__enter__()
        first.__exit__(None, None, None)
        assert handler.level == logging.ERROR
        second.__exit__(None, None, None)
        assert handler.level == logging.INFO
        assert dask.config.get("distributed.worker.profile.enabled") == before
    finally:
        logging.getLogger("distributed").removeHandler(handler)

"""All GPUs of a machine through dask-cuda: a worker each, pinned to its GPU and the processor cores beside it.

python pipelines/gpu_workers.py scan.tif print.tif [--gpus 0,1,2,3] [--batch 16] [--precision bfloat16]

`urst-tiles stylize --workers N` gives each process a GPU too; dask-cuda adds the cores' affinity.
"""

from __future__ import annotations

import argparse
import sys

from urst_tiles import UrstTilesError, stylize
from urst_tiles.progress import ProgressBar
from urst_tiles.styles import DEFAULT_STYLE


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Stylize a raster on all GPUs of this machine.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--style", default=DEFAULT_STYLE)
    parser.add_argument("--gpus", help="numbers, like 0,1; all of them when left out")
    parser.add_argument("--batch", type=int, help="windows a call of the network")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    given = parser.parse_args(words)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError:
        sys.exit("error: this recipe needs dask-cuda and a GPU: pip install dask-cuda")
    from distributed import Client

    # Two threads: while one shard is on the GPU, another is read or written. Spilling is Dask's, and there is nothing
    # of Dask's to spill.
    options = {"CUDA_VISIBLE_DEVICES": given.gpus} if given.gpus else {}
    cluster = LocalCUDACluster(threads_per_worker=2, memory_limit=0, device_memory_limit=0, **options)
    with cluster, Client(cluster) as client, ProgressBar() as bar:
        report = stylize(
            given.source,
            given.target,
            style=given.style,
            client=client,
            batch=given.batch,
            device="cuda",
            precision=given.precision,
            callbacks=[bar],
        )
    print(f"{report.target}: {report.seconds:.0f} s, {report.megapixels_per_second:.2f} MP/s on {report.engine}")


if __name__ == "__main__":
    try:
        main()
    except UrstTilesError as error:
        sys.exit(f"error: {error}")

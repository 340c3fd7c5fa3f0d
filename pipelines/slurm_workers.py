"""A SLURM cluster through dask-jobqueue: its workers are jobs, this process drives them.

python pipelines/slurm_workers.py scan.tif print.tif --jobs 8 --queue gpu --memory-per-job 16GB --walltime 02:00:00 \
    --extra=--gres=gpu:1

Raster and target stand on a file system that the jobs see under the same paths. A job that ends at its wall time is
replaced and its shards are run elsewhere. Without Dask on the nodes, use a job array instead:

    sbatch --array=1-8 --wrap 'urst-tiles stylize scan.tif print.tif --style … --shards $SLURM_ARRAY_TASK_ID/8'
"""

from __future__ import annotations

import argparse
import sys

from urst_tiles import UrstTilesError, stylize
from urst_tiles.progress import ProgressBar
from urst_tiles.styles import DEFAULT_STYLE


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Stylize a raster on a SLURM cluster.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--style", default=DEFAULT_STYLE)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--cores", type=int, default=4, help="of a job")
    parser.add_argument("--memory-per-job", default="16GB")
    parser.add_argument("--queue")
    parser.add_argument("--walltime", default="01:00:00")
    parser.add_argument("--extra", action="append", default=[], help="a line for #SBATCH, like --gres=gpu:1")
    given = parser.parse_args(words)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        sys.exit("error: this recipe needs dask-jobqueue: pip install dask-jobqueue")
    from distributed import Client

    cluster = SLURMCluster(
        # One worker a job: it holds the network once and two shards at a time.
        cores=2,
        processes=1,
        job_cpu=given.cores,
        memory=given.memory_per_job,
        queue=given.queue,
        walltime=given.walltime,
        job_extra_directives=given.extra,
        job_script_prologue=[f"export OMP_NUM_THREADS={given.cores}"],
    )
    with cluster, Client(cluster) as client, ProgressBar() as bar:
        cluster.scale(jobs=given.jobs)
        client.wait_for_workers(given.jobs)
        report = stylize(given.source, given.target, style=given.style, client=client, callbacks=[bar])
    print(f"{report.target}: {report.seconds:.0f} s, {report.megapixels_per_second:.2f} MP/s")


if __name__ == "__main__":
    try:
        main()
    except UrstTilesError as error:
        sys.exit(f"error: {error}")

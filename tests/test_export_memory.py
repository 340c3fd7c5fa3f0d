"""What the bounds of exports promise is kept: peak resident memory of a fresh process, beyond what it held before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.stores_support import run_python

# Noise does not compress: the worst case for everything that holds compressed pixels.
_MEASURE = """
    import gc, json, sys
    from pathlib import Path
    import numpy as np
    from tests.stores_support import finished_store, layout_for
    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.exporting import export
    from urst_tiles.stores import ExportOptions, OmeZarrStore, StoreLayout, build_pyramid, exporter_for

    def kilobytes(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    def peak(work):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        work()
        return (kilobytes("VmHWM") - before) * 1024

    def noise(path, side):
        layout = StoreLayout(side, side, 3, "uint8", 256, (1024, 1024))
        store, rng = OmeZarrStore.create(path, layout), np.random.default_rng(0)
        for row in range(-(-side // 1024)):
            for col in range(-(-side // 1024)):
                window = store.shard_window(0, row, col)
                pixels = rng.integers(0, 256, (3, window.height, window.width), dtype=np.uint8)
                store.write_shard(0, row, col, pixels)
        build_pyramid(store)

    folder, found = Path(sys.argv[1]), []
    return_freed_memory()
    warm, _ = finished_store(folder / "warm.zarr", layout_for(40, 40))
    for number, (name, side, options) in enumerate(json.loads(sys.argv[2])):
        export(warm, folder / f"warm{number}{name}")
        path, target = folder / f"{side}.zarr", folder / f"{number}{name}"
        if not path.exists():
            noise(path, side)
        store = OmeZarrStore.open(path)
        taken = peak(lambda: export(store, target, **options))
        found.append((taken, exporter_for(target).memory_bytes(store.layout, ExportOptions(**options))))
    print(json.dumps(found))
"""
_SIDE = 4352
_WANTED = {
    "cog": (".cog.tif", _SIDE, {"compression": "lzw", "tile": 256}),
    "jpeg": (".jpg", _SIDE, {}),
    "deepzoom": (".dzi", _SIDE, {}),
    "shards": (".zarr", _SIDE, {"chunk": 128, "shard": 512, "codec": "zstd:1"}),
    "chunks": (".zarr", _SIDE, {"zarr_format": 2, "codec": "none"}),
    # Its encoder holds the picture whole, many times over.
    "webp": (".webp", 1200, {}),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_under_its_bounds(tmp_path: Path) -> None:
    wanted = [(name, side, {**options, "memory": 4 * 2**20}) for name, side, options in _WANTED.values()]
    done = run_python(_MEASURE, tmp_path, json.dumps(wanted), prefix=("env", "VIPS_CONCURRENCY=2"))
    assert done.returncode == 0, done.stderr
    found = dict(zip(_WANTED, json.loads(done.stdout), strict=True))
    assert {name: pair for name, pair in found.items() if pair[0] > pair[1]} == {}
    whole = 3 * _SIDE**2
    assert {name: pair for name, pair in found.items() if name != "webp" and pair[1] >= whole} == {}

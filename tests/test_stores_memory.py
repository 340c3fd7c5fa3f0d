"""What the bounds promise is kept: peak resident memory of a fresh process, beyond what it held before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.stores_support import run_python
from urst_tiles.stores import StoreLayout, bigtiff_bytes, pyramid_bytes, write_bytes

# Noise does not compress: the worst case for everything that holds compressed pixels.
_MEASURE = """
    import gc, json, sys
    from pathlib import Path
    import numpy as np
    from tests.stores_support import layout_for
    from urst_tiles.allocator import return_freed_memory
    from urst_tiles.geometry import Window
    from urst_tiles.stores import OmeZarrStore, StoreLayout, build_pyramid, export_bigtiff

    def kilobytes(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    def peak(work):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        work()
        return (kilobytes("VmHWM") - before) * 1024

    return_freed_memory()
    folder, side, chunk, memory = Path(sys.argv[1]), *map(int, sys.argv[2:])
    warm = OmeZarrStore.create(folder / "warm.zarr", layout_for(40, 40))
    for row, col in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        window = warm.shard_window(0, row, col)
        warm.write_shard(0, row, col, np.zeros((3, window.height, window.width), np.uint8))
    build_pyramid(warm)
    export_bigtiff(warm, folder / "warm.tif")

    store = OmeZarrStore.create(folder / "a.zarr", StoreLayout(side, side, 3, "uint8", chunk, (2 * chunk, 4 * chunk)))
    rng, found = np.random.default_rng(0), {"write": 0}
    for row in range(-(-side // (4 * chunk))):
        for col in range(-(-side // (2 * chunk))):
            window = store.shard_window(0, row, col)
            pixels = rng.integers(0, 256, (3, window.height, window.width), dtype=np.uint8)
            found["write"] = max(found["write"], peak(lambda: store.write_shard(0, row, col, pixels)))
    del pixels
    found["pyramid"] = peak(lambda: build_pyramid(store))
    found["pyramid at once"] = peak(lambda: build_pyramid(store, at_once=3))
    found["bigtiff"] = peak(lambda: export_bigtiff(store, folder / "a.tif", memory=memory, compression="lzw"))
    print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("side", "chunk"), [(1904, 476), (5712, 476), (3808, 952), (1232, 308)])
def test_memory_stays_under_its_bounds(tmp_path: Path, side: int, chunk: int) -> None:
    memory = 8 * 2**20
    done = run_python(_MEASURE, tmp_path, side, chunk, memory)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    layout = StoreLayout(side, side, 3, "uint8", chunk, (2 * chunk, 4 * chunk))
    # a chunk that is cut out and what it is compressed to are held at once, whatever the threads do
    assert 2 * 3 * chunk**2 <= found["write"] <= write_bytes(layout)
    assert found["pyramid"] <= pyramid_bytes(layout)
    assert found["pyramid at once"] <= 3 * pyramid_bytes(layout)
    assert found["bigtiff"] <= bigtiff_bytes(layout, memory=memory)

"""Killed at any moment, on a full disk, without rights: nothing half-written bears a target's name; a run completes
it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.stores_support import digests, finished_store, layout_for, pixels_for, run_python, write_level
from urst_tiles.errors import StoreError
from urst_tiles.stores import OmeZarrStore, build_pyramid, export_bigtiff

# Runs the whole way in forked children. Child n kills itself at the n-th moment at which something reaches the disk:
# before a flush, before a rename, between two tiles. Then an undisturbed child goes on from what is left.
_SWEEP = """
    import json, os, signal, sys
    from pathlib import Path
    from tests.stores_support import digests, layout_for, pixels_for, write_level
    from urst_tiles.stores import OmeZarrStore, build_pyramid, export_bigtiff
    from urst_tiles.stores.metadata import shard_grid

    layout = layout_for(50, 30, 4, icc_profile=b"profile", resolution=(3.0, 4.0))

    def run(folder, moment):
        target = folder / "a.zarr"
        store = OmeZarrStore.open(target) if target.exists() else OmeZarrStore.create(target, layout)
        store.clean_partials()
        pixels = pixels_for(layout)
        for row, col in [(r, c) for r in range(1) for c in range(2)]:
            if not store.has_shard(0, row, col):
                y, x = store.shard_window(0, row, col).slices
                store.write_shard(0, row, col, pixels[:, y, x])
        build_pyramid(store, done=store.has_shard)
        if not (folder / "a.tif").exists():
            export_bigtiff(store, folder / "a.tif", tile=32, on_tile=lambda *_: moment())

    def child(folder, kill_at):
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seen = 0

        def moment():
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(function):
            def call(*args, **kwargs):
                moment()
                return function(*args, **kwargs)
            return call

        code = 1
        try:
            for name in ("fsync", "replace", "rename"):
                setattr(os, name, watched(getattr(os, name)))
            run(folder, moment)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)

    base, results = Path(sys.argv[1]), []
    for kill_at in range(1, 1000):
        folder = base / str(kill_at)
        folder.mkdir()
        killed = child(folder, kill_at)
        left = sorted(entry.name for entry in folder.iterdir())
        again = child(folder, 0)
        results.append({"killed": killed, "left": left, "again": again, "files": digests(folder)})
        if killed == 0:
            break
    print(json.dumps(results))
"""


def test_killed_at_any_moment_the_next_run_completes_it(tmp_path: Path) -> None:
    done = run_python(_SWEEP, tmp_path)
    assert done.returncode == 0, done.stderr
    *killed, undisturbed = json.loads(done.stdout)
    assert undisturbed["killed"] == undisturbed["again"] == 0
    assert len(killed) > 30
    seen: set[str] = set()
    for result in killed:
        assert result["killed"] == -9
        assert result["again"] == 0, done.stderr
        assert result["files"] == undisturbed["files"]
        seen.update(name.split("-")[0] for name in result["left"])
    # The moments reached every phase, a finished file included: its folder is still to be flushed.
    assert seen == {"a.zarr.creating", "a.zarr", "a.tif.partial", "a.tif"}
    assert sorted({name.split("/")[0] for name in undisturbed["files"]}) == ["a.tif", "a.zarr"]
    assert not [name for name in undisturbed["files"] if "partial" in name]


_TMPFS = ("unshare", "--mount", "--map-root-user")
_ON_TMPFS = """
    import os, subprocess, sys
    from pathlib import Path
    from tests.stores_support import finished_store, layout_for, pixels_for, write_level
    from urst_tiles.errors import StoreError
    from urst_tiles.stores import OmeZarrStore, build_pyramid, export_bigtiff

    folder = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], check=True)
    layout = layout_for(256, 256, 4, "uint16", chunk=64)
    store = OmeZarrStore.create(folder / "a.zarr", layout)

    def on_a_full_disk(work):
        before = sorted(folder.rglob("*"))
        with (folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        try:
            work()
        except StoreError as error:
            print(error)
        else:
            print("nothing was raised")
        (folder / "ballast").unlink()
        extra = [path for path in set(folder.rglob("*")) - set(before) if path.is_file()]
        assert not extra, extra

    on_a_full_disk(lambda: write_level(store, pixels_for(layout)))
    on_a_full_disk(lambda: OmeZarrStore.create(folder / "b.zarr", layout_for(9000, 9000, name="n" * 9000)))
    write_level(store, pixels_for(layout))
    build_pyramid(store)
    on_a_full_disk(lambda: export_bigtiff(store, folder / "a.tif"))
    export_bigtiff(store, folder / "a.tif")
    (Path(sys.argv[2]) / "a.tif").write_bytes((folder / "a.tif").read_bytes())
"""


def _unshare_works() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*_TMPFS, "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _unshare_works(), reason="no right to mount a small file system")
def test_a_full_disk_is_named_and_survived(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    done = run_python(_ON_TMPFS, tmp_path / "small", tmp_path, prefix=_TMPFS)
    assert done.returncode == 0, done.stderr
    advice = "the disk is full. Free some space and run the same command again: it goes on where it stopped"
    small = tmp_path / "small"
    assert done.stdout.splitlines() == [
        f"cannot write shard 0,0 of level 0 of {small}/a.zarr: {advice}",
        f"cannot create {small}/b.zarr: {advice}",
        f"cannot write {small}/a.tif: {advice}",
    ]
    # What came out in the end is what comes out where there is room.
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(256, 256, 4, "uint16", chunk=64))
    export_bigtiff(store, tmp_path / "roomy.tif")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "roomy.tif").read_bytes()


_LIMITED = """
    import resource, sys
    from pathlib import Path
    from tests.stores_support import layout_for, pixels_for, write_level
    from urst_tiles.errors import StoreError
    from urst_tiles.stores import OmeZarrStore, export_bigtiff

    folder = Path(sys.argv[1])
    store = OmeZarrStore.open(folder / "a.zarr")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    for work in (
        lambda: write_level(store, pixels_for(store.layout, seed=1)),
        lambda: export_bigtiff(store, folder / "a.tif", compression="none"),
    ):
        try:
            work()
        except StoreError as error:
            print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_file_that_may_not_grow_leaves_no_trace(tmp_path: Path) -> None:
    finished_store(tmp_path / "a.zarr", layout_for(256, 256, 4, "uint16", chunk=64))
    before = digests(tmp_path)
    done = run_python(_LIMITED, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("a file grew past what the file system or a limit (ulimit -f) allows" in line for line in lines)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EDQUOT, "the disk quota is used up. Free some space"),
        (errno.EACCES, "permission denied. Mend the permissions"),
        (errno.EROFS, "the file system is read-only. Choose another place"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_says_is_said_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(40, 40))
    before = digests(tmp_path)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    attempts: dict[str, Callable[[], object]] = {
        f"cannot write shard 0,0 of level 0 of {tmp_path}/a.zarr": lambda: write_level(store, pixels),
        f"cannot create {tmp_path}/b.zarr": lambda: OmeZarrStore.create(tmp_path / "b.zarr", layout_for(40, 40)),
        f"cannot write {tmp_path}/a.tif": lambda: export_bigtiff(store, tmp_path / "a.tif"),
    }
    for what, work in attempts.items():
        with pytest.raises(StoreError, match=re.escape(f"{what}: {words}")):
            work()
    assert digests(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="rights do not bind this user")
def test_missing_rights_are_named(tmp_path: Path) -> None:
    store, pixels = finished_store(tmp_path / "a.zarr", layout_for(40, 40))
    locked = tmp_path / "a.zarr/0/c/0/0"
    locked.chmod(0o500)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="permission denied"):
            write_level(store, pixels)
        with pytest.raises(StoreError, match=r"cannot create .*b\.zarr: permission denied"):
            OmeZarrStore.create(tmp_path / "b.zarr", layout_for(40, 40))
        with pytest.raises(StoreError, match=r"cannot write .*a\.tif: permission denied"):
            export_bigtiff(store, tmp_path / "a.tif")
    finally:
        tmp_path.chmod(0o700)
        locked.chmod(0o700)


def test_writing_again_changes_no_byte(tmp_path: Path) -> None:
    layout = layout_for(100, 70, 4, "uint16")
    store, pixels = finished_store(tmp_path / "a.zarr", layout)
    before = digests(tmp_path)
    write_level(store, pixels)
    build_pyramid(store)
    assert digests(tmp_path) == before
    other = OmeZarrStore.create(tmp_path / "b.zarr", layout)
    write_level(other, pixels_for(layout))
    build_pyramid(other)
    assert digests(tmp_path / "a.zarr") == digests(tmp_path / "b.zarr")
    np.testing.assert_array_equal(pixels, pixels_for(layout))

"""Runs whose target is a URL: memory://, and S3 as a local server speaks it. The laws of interrupted and shared runs,
and what readers see meanwhile."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import pyvips
import zarr
from PIL import Image
from zarr.storage import FsspecStore

from tests.stores_support import layout_for, run_python
from tests.support import left_in, picture, tree, write_tiff
from urst_tiles import load_network, open_source, stylize
from urst_tiles.cli import main
from urst_tiles.errors import InputError, RunMismatchError, RunStopped, SourceError, StoreError
from urst_tiles.events import Event, PhaseProgress, PhaseStarted, ShardFinished
from urst_tiles.geometry import Window
from urst_tiles.ledger import Record
from urst_tiles.networks.moments import Moments
from urst_tiles.objects import Objects
from urst_tiles.reports import describe
from urst_tiles.runs import RunRecord
from urst_tiles.sites import BucketSite, open_site
from urst_tiles.statistics import Statistics

IDENTITY = load_network("identity")
SETTINGS: dict[str, Any] = {"network": IDENTITY, "window": 32, "thumbnail": 64}
SHARDS = 21
"""Of full size in a raster of 300 x 400 px with windows of 32 px; 12 more are in its pyramid."""
LAST = 1000
"""More puts than a run has."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def url() -> Iterator[str]:
    name = f"memory://test-{uuid.uuid4().hex}"
    yield f"{name}/o.zarr"
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("objects") / "in.tif", picture(300, 400))


@pytest.fixture(scope="module")
def calm(source: Path) -> dict[str, str]:
    """What a local run writes, the run's own notes left out."""
    stylize(source, source.with_name("calm.zarr"), **SETTINGS)
    return {name: digest for name, digest in tree(source.with_name("calm.zarr")).items() if not is_note(name)}


def is_note(name: str) -> bool:
    return name.startswith("urst/") and name != "urst/zarr.json"


def objects_at(url: str) -> dict[str, str]:
    """Like :func:`tests.support.tree`, below a URL, notes left out."""
    there = Objects(url)
    return {key: hashlib.sha256(there.get(key) or b"").hexdigest() for key in sorted(there.keys()) if not is_note(key)}


def stop_after(shards: int) -> tuple[Callable[[], bool], Callable[[Event], None]]:
    """A ``stop`` and the callback it listens to."""
    seen: list[Event] = []
    return lambda: len(seen) >= shards, lambda event: seen.append(event) if isinstance(event, ShardFinished) else None


def begun(source: Path, url: str, shards: int = 4, **more: Any) -> int:
    """An unfinished run; how many shards it has."""
    stop, watch = stop_after(shards)
    with pytest.raises(RunStopped):
        stylize(source, url, stop=stop, callbacks=[watch], **(SETTINGS | more))
    return len(list(Objects(url).keys("urst/ledger/0")))


def test_a_result_below_a_url_is_the_local_one_and_appears_when_it_is_whole(
    source: Path, calm: dict[str, str], url: str
) -> None:
    seen: set[str] = set()

    def look(event: Event) -> None:
        """A reader in the middle of the run."""
        if isinstance(event, PhaseStarted | PhaseProgress | ShardFinished):
            seen.add(type(event).__name__)
            with pytest.raises(SourceError):
                open_source(url)
            with pytest.raises(FileNotFoundError):
                zarr.open_group(url, mode="r")
            assert not fsspec.filesystem("memory").exists(f"{url}/zarr.json")

    report = stylize(source, url, callbacks=[look], **SETTINGS)
    assert seen == {"PhaseStarted", "PhaseProgress", "ShardFinished"}
    assert (report.target, report.shards, report.shards_before, report.shards_empty) == (url, SHARDS, 0, 0)
    assert report.to_json()["target"] == url
    assert objects_at(url) == calm
    facts = describe(url)
    assert (facts["width"], facts["height"], facts["run"]["settings"]["geometry"]["window"]) == (400, 300, 32)
    whole = zarr.open_group(url, mode="r")["0"]
    assert isinstance(whole, zarr.Array)
    assert (np.asarray(whole[...]) == picture(300, 400).transpose(2, 0, 1)).all()
    ome = pytest.importorskip("ome_zarr.reader")
    store = FsspecStore.from_url(url, read_only=True)
    (node,) = ome.Reader(pytest.importorskip("ome_zarr.io").ZarrLocation(store))()
    assert [level.shape for level in node.data] == [
        (3, 300, 400),
        (3, 150, 200),
        (3, 75, 100),
        (3, 38, 50),
        (3, 19, 25),
    ]


def test_file_urls_are_local(tmp_path: Path, source: Path, calm: dict[str, str]) -> None:
    report = stylize(source, f"file://{tmp_path}/o.zarr", **SETTINGS)
    assert report.target == tmp_path / "o.zarr"
    assert {name: digest for name, digest in tree(tmp_path / "o.zarr").items() if not is_note(name)} == calm
    assert left_in(tmp_path) == ["o.zarr"]


def test_law_9_a_failing_put_is_one_line_and_the_same_call_goes_on(
    source: Path, calm: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From some put on they fail, in each call later: in the creation, among shards and records, in the pyramid, at the
    very last."""
    memory = type(fsspec.filesystem("memory"))
    whole, left = memory.pipe_file, 0

    def failing(self: Any, path: str, value: bytes, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0 or (left < LAST and path.endswith("o.zarr/zarr.json")):
            raise OSError("the line is\ncut")
        whole(self, path, value, **options)

    monkeypatch.setattr(memory, "pipe_file", failing)
    for puts in (0, 1, 2, 3, 6, 8, 9, 7, 5, 6, LAST):
        left = puts
        with pytest.raises(StoreError, match=r"memory://.*the line is cut\. .* the same command goes on") as caught:
            stylize(source, url, **SETTINGS)
        assert "\n" not in str(caught.value)
        assert not Objects(url).has("zarr.json")
    left = 2 * LAST
    report = stylize(source, url, **SETTINGS)
    assert 0 < report.shards_before == SHARDS - report.shards
    assert objects_at(url) == calm
    monkeypatch.undo()
    with pytest.raises(StoreError, match="exists"):
        stylize(source, url, **SETTINGS)


def test_law_10_parts_below_one_url(source: Path, calm: dict[str, str], url: str) -> None:
    for part, finished in (("3/3", False), ("1/3", False), ("1/3", False), ("2/3", True)):
        report = stylize(source, url, shards=part, **SETTINGS)
        assert (report.shards + report.shards_before, report.finished) == (7, finished)
    assert objects_at(url) == calm


def test_law_10_a_straggler_does_a_finished_result_no_harm(source: Path, calm: dict[str, str], url: str) -> None:
    """All the other parts, and the straggler's own a second time, begin and end while it is at its first shard."""
    others: list[bool] = []

    def overtake(event: Event) -> None:
        if isinstance(event, ShardFinished) and not others:
            others.append(False)
            others.extend(stylize(source, url, shards=part, **SETTINGS).finished for part in ("1/3", "2/3", "3/3"))
            assert objects_at(url) == calm
            with pytest.raises(StoreError, match="exists"):
                stylize(source, url, shards="1/3", **SETTINGS)

    report = stylize(source, url, shards="3/3", callbacks=[overtake], **SETTINGS)
    assert others == [False, False, False, True]
    assert (report.shards, report.finished) == (7, True)
    assert objects_at(url) == calm


def some_statistics(seed: float) -> Statistics:
    return Statistics({"norm": Moments(4, np.full(3, seed), np.full(3, 2.0))})


def test_who_loses_the_creation_takes_the_winners_statistics(url: str) -> None:
    record = RunRecord({"window": 32}, {}, {})
    one, other = (BucketSite(url, None, None) for _ in range(2))
    assert not one.prepare(record, overwrite=False)
    assert not other.prepare(record, overwrite=False)  # it sees what the one has put so far
    assert one.create(layout_for(50, 40), record, some_statistics(1.0))
    assert not other.create(layout_for(70, 70), record, some_statistics(2.0))
    assert other.prepare(record, overwrite=False)
    assert other.statistics() == one.statistics() == some_statistics(1.0)
    assert other.store().layout == one.store().layout == layout_for(50, 40)
    with pytest.raises(RunMismatchError, match="window: 32 → 48"):
        other.prepare(RunRecord({"window": 48}, {}, {}), overwrite=False)
    assert len([key for key in Objects(url).keys("urst") if "statistics" in key]) == 2
    one.finish("omezarr", print, keep_store=False)
    other.finish("omezarr", print, keep_store=False)
    # What the other one had measured is gone.
    assert len([key for key in Objects(url).keys("urst") if "statistics" in key]) == 1
    assert BucketSite(url, None, None).statistics() == some_statistics(1.0)


def test_a_creation_that_is_overtaken_goes_on_with_the_others_run(
    source: Path, calm: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = BucketSite.create
    done = 0

    def overtaken(self: BucketSite, *given: Any) -> bool:
        nonlocal done
        monkeypatch.setattr(BucketSite, "create", create)
        done = begun(source, url)
        return create(self, *given)

    monkeypatch.setattr(BucketSite, "create", overtaken)
    report = stylize(source, url, **SETTINGS)
    assert report.shards_before == done >= 4
    assert objects_at(url) == calm


def test_objects_that_are_gone_or_torn_are_made_again(source: Path, calm: dict[str, str], url: str) -> None:
    there, done = Objects(url), begun(source, url)
    recorded = sorted(there.keys("urst/ledger/0"))
    there.put(recorded[0], [(there.get(recorded[0]) or b"")[:20]])
    index = int(recorded[1].rpartition("/")[2])
    there.remove(f"0/c/0/{index // 7}/{index % 7}")
    report = stylize(source, url, **SETTINGS)
    assert (report.shards_before, report.shards) == (done - 2, SHARDS - done + 2)
    assert objects_at(url) == calm


@pytest.mark.parametrize("where", ["url", "o.zarr", "o.tif"])
def test_empty_shards_are_done_without_being_there(tmp_path: Path, url: str, where: str) -> None:
    """Twelve shards of 21 are transparent and 0: recorded, counted, not written, not missed when the run goes on."""
    target = url if where == "url" else tmp_path / where
    pixels = picture(300, 400, 4)
    pixels[:, :256] = 0
    source = write_tiff(tmp_path / "in.tif", pixels)
    told: list[ShardFinished] = []
    stop, watch = stop_after(5)
    with pytest.raises(RunStopped):
        stylize(source, target, stop=stop, callbacks=[watch], **SETTINGS)
    report = stylize(
        source, target, callbacks=[lambda event: told.append(event) if isinstance(event, ShardFinished) else None],
        keep_store=True, **SETTINGS
    )  # fmt: skip
    assert report.shards_before >= 5
    assert report.shards_empty == 12
    assert {event.shard for event in told if event.empty} == {event.shard for event in told if event.shard % 7 < 4}
    store = tmp_path / "o.tif.zarr" if where == "o.tif" else target
    whole: Any = zarr.open_group(store, mode="r")["0"]
    assert (np.asarray(whole[...]) == pixels.transpose(2, 0, 1)).all()
    written = objects_at(url) if where == "url" else tree(Path(store))
    assert len([name for name in written if name.startswith("0/c/")]) == 9
    if where == "o.tif":
        assert (pyvips.Image.new_from_file(str(target)).numpy() == pixels).all()


def test_the_command_line_takes_urls(source: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["stylize", str(source), url, "--network", "identity", "--window", "32", "--quiet"])
    main(["info", url])
    assert f"{url} (zarr)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["stylize", str(source), url.replace(".zarr", ".tif"), "--network", "identity"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_settings_are_refused_and_overwritten_on_request(source: Path, url: str) -> None:
    begun(source, url)
    with pytest.raises(RunMismatchError, match=r"memory://.*geometry\.window: 32 → 48"):
        stylize(source, url, **(SETTINGS | {"window": 48}))
    Objects(url).put("litter", [b"of an older version"])
    stylize(source, url, overwrite=True, **(SETTINGS | {"window": 48}))
    first = objects_at(url)
    assert "litter" not in first
    with pytest.raises(StoreError, match=r"memory://.* exists; choose another name or use overwrite"):
        stylize(source, url, **(SETTINGS | {"window": 48}))
    stylize(source, url, overwrite=True, **(SETTINGS | {"window": 48}))
    assert objects_at(url) == first


@pytest.mark.parametrize("key", ["mine.txt", "0/.zarray", "urst/ledger/0/1", "urst/run.json"])
def test_what_is_nobodys_run_is_left_alone(source: Path, url: str, key: str) -> None:
    """Half a removed run too: its ledger would speak for shards of other settings."""
    Objects(url).put(key, [b"{}"])
    with pytest.raises(StoreError, match="exists"):
        stylize(source, url, **SETTINGS)
    assert list(Objects(url).keys()) == [key]


def test_a_run_that_does_not_come_to_be_leaves_nothing(source: Path, url: str) -> None:
    with pytest.raises(RunStopped):
        stylize(source, url, stop=lambda: True, **SETTINGS)
    Objects(url).remove_all()

    def fail(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize(source, url, callbacks=[fail], **SETTINGS)
    assert list(Objects(url).keys()) == []


def test_an_edited_source_is_refused_and_a_touched_one_goes_on(tmp_path: Path, url: str) -> None:
    pixels = picture(300, 400)
    source = write_tiff(tmp_path / "in.tif", pixels)
    begun(source, url)
    write_tiff(source, pixels ^ 1)
    with pytest.raises(RunMismatchError, match="changed since this run began"):
        stylize(source, url, **SETTINGS)
    write_tiff(source, pixels)
    stylize(source, url, **SETTINGS)
    assert (open_source(url).read(Window(0, 0, 400, 300)) == pixels).all()


def test_targets_that_cannot_be(tmp_path: Path, source: Path) -> None:
    for target, words in (
        ("memory://bucket/o.tif", r"memory://bucket/o\.tif: only an OME-Zarr can be written there"),
        ("nosuch://bucket/o.zarr", "nosuch://bucket/o.zarr cannot be reached: Protocol not known"),
        ("memory://bucket/o[1].zarr", "is a pattern"),
        (Path("s3://bucket/o.zarr"), "give it as a string"),
        ("s3://bucket.zarr", "is a whole bucket"),
    ):
        with pytest.raises(InputError, match=words):
            stylize(source, target, **SETTINGS)


def test_unpacking_needs_a_scratch_folder_with_a_url(tmp_path: Path, url: str) -> None:
    pixels = picture(130, 170)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    stylize(tmp_path / "in.png", "memory://bucket/bands.zarr", **SETTINGS)  # needs none
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "in.png", exif=exif)
    with pytest.raises(InputError, match=r"in\.png has to be unpacked before a run .* \(--scratch FOLDER\)"):
        stylize(tmp_path / "in.png", url, **SETTINGS)
    with pytest.raises(StoreError, match="there is no folder"):
        stylize(tmp_path / "in.png", url, scratch=tmp_path / "scratch", **SETTINGS)
    (tmp_path / "scratch").mkdir()
    begun(tmp_path / "in.png", url, shards=1, scratch=tmp_path / "scratch")
    assert len(left_in(tmp_path / "scratch")) == 1  # unpacked once
    stylize(tmp_path / "in.png", url, scratch=tmp_path / "scratch", **SETTINGS)
    stylize(tmp_path / "in.png", tmp_path / "o.zarr", scratch=tmp_path / "scratch", **SETTINGS)
    for result in (url, tmp_path / "o.zarr", "memory://bucket/bands.zarr"):
        whole: Any = zarr.open_group(result, mode="r")["0"]
        assert (np.asarray(whole[...]) == pixels.transpose(2, 0, 1)).all()
    assert left_in(tmp_path / "scratch") == []
    assert left_in(tmp_path) == ["in.png", "o.zarr", "scratch"]


def test_site_of_a_target(tmp_path: Path) -> None:
    assert open_site("memory://a/b.zarr/", None, None).target == "memory://a/b.zarr"
    assert open_site(f"file://{tmp_path}/b.zarr", None, None).target == tmp_path / "b.zarr"
    assert open_site(tmp_path / "b.zarr", None, None).target == tmp_path / "b.zarr"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server of S3 in this process, which other processes reach too."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "anybody"),
        ("AWS_SECRET_ACCESS_KEY", "anything"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        patch.setenv(name, value)
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    patch.undo()
    server.stop()


def test_law_9_on_s3_killed_at_chosen_puts(tmp_path: Path, bucket: str) -> None:
    """kill -9 before run.json, among the arrays' metadata, between a shard and its record, before the very last put."""
    target, pixels = f"{bucket}/killed/o.zarr", picture(140, 150)
    source = write_tiff(tmp_path / "in.tif", pixels)
    moments = ["3", "5", "urst/ledger/0/2", "zarr.json"]
    done = run_python(
        "from tests.kill_objects import main; import sys, json; from pathlib import Path; "
        "print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])))",
        source,
        target,
        *moments,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [-9] * len(moments) + [0], done.stderr
    stylize(source, tmp_path / "calm.zarr", **SETTINGS)
    expected = {name: digest for name, digest in tree(tmp_path / "calm.zarr").items() if not is_note(name)}
    assert objects_at(target) == expected
    whole: Any = zarr.open_group(target, mode="r")["0"]
    assert (np.asarray(whole[...]) == pixels.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_raster_in_a_bucket_goes_through_a_run(tmp_path: Path, bucket: str, kind: str) -> None:
    pixels, url = picture(140, 150), f"{bucket}/rasters/a.{kind}"
    if kind == "tif":
        fsspec.filesystem("s3").put_file(str(write_tiff(tmp_path / "a.tif", pixels)), url)
    else:
        zarr.create_array(store=url, data=pixels, chunks=(32, 32, 3), dimension_names=["y", "x", "c"])
    assert (open_source(url).read(Window(30, 40, 70, 60)) == pixels[40:100, 30:100]).all()
    stylize(url, tmp_path / "o.zarr", **SETTINGS)
    whole: Any = zarr.open_group(tmp_path / "o.zarr", mode="r")["0"]
    assert (np.asarray(whole[...]) == pixels.transpose(2, 0, 1)).all()


def test_s3_itself_lets_one_creator_win(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objects, "has", lambda *_: False)
    assert Objects(f"{bucket}/race").create("run.json", b"one")
    assert not Objects(f"{bucket}/race").create("run.json", b"other")
    assert Objects(f"{bucket}/race").get("run.json") == b"one"


def test_s3_without_the_bucket_is_one_line_before_anything_is_measured(source: Path, bucket: str) -> None:
    events: list[Event] = []
    with pytest.raises(
        StoreError,
        match=r"^cannot write s3://nowhere/o\.zarr: [^.]*bucket does not exist\. When that is mended, [^.]*goes on$",
    ) as caught:
        stylize(source, "s3://nowhere/o.zarr", callbacks=[events.append], **SETTINGS)
    assert "\n" not in str(caught.value)
    assert events == []


def test_parts_on_s3_see_each_others_records(tmp_path: Path, bucket: str) -> None:
    target, source = f"{bucket}/parts/o.zarr", write_tiff(tmp_path / "in.tif", picture(140, 150))
    assert not stylize(source, target, shards="2/2", **SETTINGS).finished
    record = Record.unpack(Objects(target).get("urst/ledger/0/3") or b"")
    assert record is not None
    assert (record.level, record.index, record.empty) == (0, 3, False)
    assert stylize(source, target, shards="1/2", **SETTINGS).finished
    assert describe(target)["width"] == 150

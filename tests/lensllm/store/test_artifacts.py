"""The store: keys, atomic publication, damage, locks, leftovers."""

import hashlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import StoreError
from lensllm.store import schemas
from lensllm.store.artifacts import MANIFEST, Recipe, Ref, Store, write_table
from tests.waiting import HANG_SECONDS

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "artifacts")
    store.prepare()
    return store


def note(text: str):
    return lambda folder: (folder / "note.txt").write_text(text)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.randoms())
def test_key_ignores_the_order_of_parameters(params, random):
    shuffled = list(params.items())
    random.shuffle(shuffled)
    assert Recipe("s", 1, params).ref == Recipe("s", 1, dict(shuffled)).ref


def test_key_changes_with_everything_it_is_made_of():
    up = {"a": Ref("x", "1")}
    recipes = [
        Recipe("s", 1, {"p": 1}, up),
        Recipe("t", 1, {"p": 1}, up),
        Recipe("s", 2, {"p": 1}, up),
        Recipe("s", 1, {"p": 2}, up),
        Recipe("s", 1, {"p": 1}, {"a": Ref("x", "2")}),
        Recipe("s", 1, {"p": 1}, {"b": Ref("x", "1")}),
    ]
    assert len({r.ref.key for r in recipes}) == len(recipes)


def test_made_once_and_read_back(store: Store):
    recipe = Recipe("sample", 1, {"d": 3})
    rows = [{"row": 4, "role": "train", "rank": 0}]

    assert not store.make(recipe, lambda folder: write_table(folder, "sample/roles", rows))
    assert store.make(recipe, lambda _: pytest.fail("it is there"))

    pd.testing.assert_frame_equal(store.table(recipe.ref, "roles"), pd.DataFrame(rows))
    assert store.manifest(recipe.ref)["params"] == {"d": 3}


def test_a_table_must_have_its_schemas_columns(tmp_path: Path):
    with pytest.raises(KeyError):
        write_table(tmp_path, "sample/roles", pd.DataFrame({"row": [1]}))


def test_every_schema_carries_its_version():
    versions = {s.metadata[b"lensllm.schema_version"] for s in schemas.TABLES.values()}
    assert versions == {str(schemas.VERSION).encode()}


def test_a_failed_build_leaves_nothing(store: Store):
    recipe = Recipe("s", 1)

    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        store.make(recipe, build)
    assert not store.has(recipe.ref)
    assert list((store.root / ".tmp").iterdir()) == []
    assert list((store.root / ".locks").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest"])
def test_damage_is_named_and_mended(store: Store, damage: str, caplog):
    recipe = Recipe("s", 1)
    store.make(recipe, note("hello"))
    path = store.path(recipe.ref) / "note.txt"
    match damage:
        case "truncate":
            path.write_text("hell")
        case "flip":
            path.write_text("hallo")
        case "delete":
            path.unlink()
        case "manifest":
            (path.parent / MANIFEST).write_text("{")
    fresh = Store(store.root)

    with caplog.at_level(logging.WARNING):
        assert not fresh.has(recipe.ref)
    assert f"{recipe.ref} is damaged" in caplog.text
    with pytest.raises(StoreError, match="is damaged"):
        fresh.table(recipe.ref, "x")
    assert not fresh.make(recipe, note("hello"))
    assert path.read_text() == "hello"


def _slow_make(root: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as stream:
            stream.write("built\n")
        time.sleep(2.0)
        (folder / "note.txt").write_text("x")

    Store(root).make(Recipe("s", 1), build)


def _start(target, *args) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    return process


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_two_processes_compute_once(store: Store, tmp_path: Path):
    log = tmp_path / "log"
    both = [_start(_slow_make, store.root, log) for _ in range(2)]
    for process in both:
        process.join(30)
    assert [p.exitcode for p in both] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_killed_maker_leaves_no_lock_and_its_folder_is_collected(store: Store, tmp_path: Path):
    recipe, log = Recipe("s", 1), tmp_path / "log"
    maker = _start(_slow_make, store.root, log)
    _wait_for(log)
    assert store.in_progress(recipe.ref)
    os.kill(maker.pid or 0, signal.SIGKILL)
    maker.join()
    assert not store.in_progress(recipe.ref)
    assert len(list((store.root / ".tmp").iterdir())) == 1

    Store(store.root).prepare()
    assert list((store.root / ".tmp").iterdir()) == []
    assert list((store.root / ".locks").iterdir()) == []


def test_collection_spares_a_living_maker(store: Store, tmp_path: Path):
    log = tmp_path / "log"
    maker = _start(_slow_make, store.root, log)
    _wait_for(log)
    Store(store.root).prepare()
    maker.join(30)
    assert maker.exitcode == 0
    assert Store(store.root).has(Recipe("s", 1).ref)


def test_unreferenced_and_remove(store: Store):
    kept, left = Recipe("s", 1, {"p": 1}), Recipe("s", 1, {"p": 2})
    for recipe in (kept, left):
        store.make(recipe, note("x"))
    assert [left.ref] == store.unreferenced({kept.ref})
    assert store.remove(left.ref) > 0
    assert store.unreferenced({kept.ref}) == []


def test_damage_is_announced_once_however_many_look(store: Store, caplog):
    recipe = Recipe("s", 1)
    store.make(recipe, note("hello"))
    (store.path(recipe.ref) / "note.txt").write_text("hallo")
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: Store(store.root).has(recipe.ref), range(8)))
        assert not Store(store.root).make(recipe, note("hello"))
    assert found == [False] * 8
    assert caplog.text.count("is damaged") == 1
    (store.path(recipe.ref) / "note.txt").write_text("hullo")  # another damage
    with caplog.at_level(logging.WARNING):
        assert not Store(store.root).has(recipe.ref)
    assert caplog.text.count("is damaged") == 2


def test_the_manifest_lists_every_file(store: Store):
    recipe = Recipe("s", 1)

    def build(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "a").write_text("1")
        (folder / "b").write_text("22")

    store.make(recipe, build)
    files = json.loads((store.path(recipe.ref) / MANIFEST).read_text())["files"]
    assert {name: entry["bytes"] for name, entry in files.items()} == {"b": 2, "model/a": 1}


def test_a_file_in_place_of_the_folder_is_a_sentence(tmp_path: Path):
    (tmp_path / "artifacts").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        Store(tmp_path / "artifacts").prepare()


def test_a_folder_that_cannot_be_written_is_a_sentence():
    with pytest.raises(StoreError, match="cannot be written"):
        Store(Path("/proc/self/lensllm")).prepare()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 512 KiB, and how to make it read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_sentence_and_loses_nothing(small_disk: Path):
    store = Store(small_disk / "artifacts")
    store.prepare()
    store.make(Recipe("s", 1, {"p": 1}), note("kept"))
    with pytest.raises(StoreError, match="no space is left on its disk; free some"):
        store.make(Recipe("s", 1, {"p": 2}), note("x" * 2**20))
    again = Store(small_disk / "artifacts")
    again.prepare()
    assert again.has(Recipe("s", 1, {"p": 1}).ref)
    assert not again.make(Recipe("s", 1, {"p": 2}), note("fits"))


def test_a_disk_with_too_little_space_is_told_before_anything_starts(small_disk: Path):
    store = Store(small_disk / "artifacts")
    store.prepare()
    store.require_space(100_000)
    with pytest.raises(StoreError, match=r"has \d MB free and a run needs at least 100 MB"):
        store.require_space(100_000_000)


def test_a_read_only_disk_is_a_sentence(small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="cannot be written; choose another with --artifacts"):
        Store(small_disk / "artifacts").prepare()


@pytest.fixture
def rows(store: Store) -> Recipe:
    """An artefact with a documented table."""
    recipe = Recipe("sample", 1, {"d": 3})
    table = [{"row": 4, "role": "train", "rank": 0}]
    store.make(recipe, lambda folder: write_table(folder, "sample/roles", table))
    return recipe


def forge(store: Store, recipe: Recipe) -> None:
    """Write the manifest anew, so that sizes and checksums fit whatever is there."""
    folder = store.path(recipe.ref)
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.glob("*.parquet")
    }
    (folder / MANIFEST).write_text(json.dumps({**recipe.describe(), "files": files}))


def test_a_fault_is_found_however_often_it_was_read_before(store: Store, rows: Recipe):
    assert store.fault(rows.ref) == ""
    path = store.file(rows.ref, "roles.parquet")  # verified, so no longer looked at by has()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert store.has(rows.ref)
    assert store.fault(rows.ref) == "roles.parquet does not match its checksum"


def test_what_checksums_do_not_tell_is_a_fault_too(store: Store, rows: Recipe):
    table = store.path(rows.ref) / "roles.parquet"
    frame = pq.read_table(table)
    other = frame.rename_columns(["row", "part", "rank"])
    pq.write_table(other.replace_schema_metadata(frame.schema.metadata), table)
    forge(store, rows)
    assert store.fault(rows.ref) == "roles.parquet has not the columns of its schema"
    table.write_text("no table")
    forge(store, rows)
    assert store.fault(rows.ref) == "roles.parquet cannot be read as a table"


def edit(manifest: Path, **changes: object) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def one_gibibyte(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(2**30)


@pytest.fixture
def hurry() -> Iterator[None]:
    """Nothing may wait for the other end of a pipe, or take a device into memory."""

    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + 2**29
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


CANNOT = "its manifest cannot be read"


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda m: edit(m, params={"d": 4}), "its manifest is not of this key"),
        (lambda m: edit(m, version=2), "its manifest is not of this key"),
        (lambda m: edit(m, note="x"), "its manifest is not of this key"),
        (lambda m: edit(m, files={}), "its manifest lists no files"),
        (lambda m: edit(m, files=[1]), CANNOT),
        (lambda m: m.with_name("stray").touch(), "stray is not in its manifest"),
        (lambda m: m.with_name("stray").symlink_to("/"), "stray is not in its manifest"),
        (lambda m: m.write_text('{"files":' + "[" * 100_000 + "]" * 100_000 + "}"), CANNOT),
        (lambda m: m.write_text('{"files": ' + "1" * 5001 + "}"), CANNOT),
        (lambda m: m.write_text("[]"), CANNOT),
        (pipe_instead, CANNOT),
        (endless_instead, CANNOT),
        (one_gibibyte, CANNOT),
    ],
)  # fmt: skip
def test_a_run_trusts_no_manifest_that_verify_does_not(store: Store, rows: Recipe, spoil, fault):
    spoil(store.path(rows.ref) / MANIFEST)
    tracemalloc.start()
    assert not Store(store.root).has(rows.ref)
    assert store.fault(rows.ref) == fault
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    table = [{"row": 4, "role": "train", "rank": 0}]
    assert not Store(store.root).make(rows, lambda f: write_table(f, "sample/roles", table))
    assert store.fault(rows.ref) == ""


def test_what_desktops_and_network_disks_leave_in_a_folder_is_no_damage(store: Store, rows: Recipe):
    (store.path(rows.ref) / ".DS_Store").touch()
    assert Store(store.root).has(rows.ref)
    assert store.fault(rows.ref) == ""


def test_an_artefact_without_files_is_not_published(store: Store):
    with pytest.raises(ValueError, match="0 files"):
        store.make(Recipe("s", 1), lambda folder: None)
    assert store.present() == []


def test_everything_present_is_listed_and_only_the_damaged_is_removed(store: Store, rows: Recipe):
    whole = Recipe("s", 1)
    store.make(whole, note("x"))
    (store.path(rows.ref) / MANIFEST).unlink()
    for stranger in ("mlflow-artifacts", "reports", ".tmp"):
        (store.root / stranger / whole.ref.key).mkdir(parents=True)
    stray, dangling = Ref("s", "a" * 32), Ref("s", "b" * 32)
    store.path(stray).touch()
    store.path(dangling).symlink_to("nowhere")
    damaged = {rows.ref, stray, dangling}
    assert set(store.present()) == {whole.ref, *damaged}
    assert set(store.unreferenced({whole.ref})) == damaged
    assert store.fault(dangling) == "it is not a folder"
    for ref in store.present():
        store.remove_damaged(ref)
    assert store.present() == [whole.ref]


# --- folders that somebody else filled ------------------------------------------------------------
@pytest.mark.parametrize(("stage", "key"), [("..", "x"), ("x", ".."), ("../x", "y"), ("x", "/etc")])
def test_no_reference_leaves_the_root(stage: str, key: str):
    with pytest.raises(StoreError, match="no artefact can be called"):
        Ref(stage, key)


@pytest.mark.parametrize("name", ["../outside", "/outside", "link"])
def test_a_manifest_that_names_a_file_elsewhere_is_damage(store: Store, tmp_path: Path, name: str):
    outside = tmp_path / "outside"
    outside.write_text("secret")
    recipe = Recipe("s", 1)
    store.make(recipe, note("inside"))
    folder = store.path(recipe.ref)
    (folder / "link").symlink_to(outside)
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    named = str(outside) if name == "/outside" else name.replace("../", "../../../")
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": {named: entry}}))
    assert not Store(store.root).has(recipe.ref)


def test_removing_an_artefact_that_is_a_link_keeps_what_it_leads_to(store: Store, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (store.root / "s").mkdir()
    (store.root / "s" / "k").symlink_to(elsewhere)
    store.remove(Ref("s", "k"))
    assert (elsewhere / "precious").exists()
    assert not (store.root / "s" / "k").exists()


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # names of sockets are short


STRAYS = {
    "link": lambda path, elsewhere: path.symlink_to(elsewhere),
    "link to a file": lambda path, elsewhere: path.symlink_to(elsewhere / "precious"),
    "link to nowhere": lambda path, elsewhere: path.symlink_to(elsewhere / "gone" / "x"),
    "file": lambda path, elsewhere: path.write_text("x"),
    "folder": lambda path, elsewhere: (path / "inside").mkdir(parents=True),
    "pipe": lambda path, elsewhere: os.mkfifo(path),
    "socket": lambda path, elsewhere: socket_at(path),
}


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("place", ["artefact", ".tmp", ".locks", ".partial"])
@pytest.mark.parametrize("prepared", [True, False])
def test_whatever_has_an_artefacts_name_is_removed_and_never_followed(
    store: Store, tmp_path: Path, monkeypatch, place: str, stray: str, prepared: bool
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    recipe = Recipe("s", 1)
    path = (
        store.path(recipe.ref)
        if place == "artefact"
        else store.root / place / f"s-{recipe.ref.key}"
    )
    path.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(path.parent)
    STRAYS[stray](path, elsewhere)

    fresh = Store(store.root)
    if prepared:
        fresh.prepare()
    assert not fresh.has(recipe.ref)
    assert not fresh.in_progress(recipe.ref)
    assert not fresh.make(recipe, note("hello"))
    assert Store(store.root).file(recipe.ref, "note.txt").read_text() == "hello"
    assert not fresh.path(recipe.ref).is_symlink()
    assert [p.name for p in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "x"
    for folder in (".tmp", ".locks", ".partial"):
        assert list((store.root / folder).glob("*")) == []


@pytest.mark.parametrize("name", [".tmp", ".locks", ".partial", ".users", ".users/lock"])
@pytest.mark.parametrize("stray", ["file", "link to nowhere"])
def test_strays_in_place_of_the_stores_own_folders_are_removed(
    store: Store, tmp_path: Path, name: str, stray: str
):
    path = store.root / name
    shutil.rmtree(path, ignore_errors=True)
    STRAYS[stray](path, tmp_path / "elsewhere")
    store.prepare()
    with store.using():
        assert not store.make(Recipe("s", 1), note("hello"))
    assert not (tmp_path / "elsewhere").exists()


def test_names_that_nobody_gave_are_left_alone(store: Store):
    host = socket.gethostname()
    names = ["x-..", "readme", f"s@{host}@x@y", f"s-k@{host}@1", "-" + "a" * 32]
    for folder in (".tmp", ".locks", ".partial", ".users"):
        for name in names:
            (store.root / folder / name).touch()
    store.prepare()
    assert store.being_made() == []
    assert len(list((store.root / ".tmp").iterdir())) == len(names)


# --- a stage on another disk ----------------------------------------------------------------------
def test_a_stage_may_be_a_link_to_another_disk(store: Store, small_disk: Path):
    (store.root / "s").symlink_to(small_disk)
    recipe = Recipe("s", 1)
    left = small_disk / ".tmp" / f"s-{recipe.ref.key}"
    left.mkdir(parents=True)
    Store(store.root).prepare()
    assert not left.exists()
    assert not store.make(recipe, note("hello"))
    assert (small_disk / recipe.ref.key / "note.txt").read_text() == "hello"
    assert store.present() == store.refs("s") == [recipe.ref]
    assert Store(store.root).has(recipe.ref)
    (store.path(recipe.ref) / "note.txt").write_text("hallo")
    assert not Store(store.root).make(recipe, note("hello"))
    assert (store.root / "s").is_symlink()
    store.remove(recipe.ref)
    assert [p.name for p in small_disk.iterdir()] == [".tmp"]
    assert list((small_disk / ".tmp").iterdir()) == []


def test_the_whole_folder_may_be_a_link(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "elsewhere")
    store = Store(tmp_path / "artifacts")
    store.prepare()
    with store.using():
        assert not store.make(Recipe("s", 1), note("hello"))
    assert (tmp_path / "elsewhere" / "s").is_dir()


@pytest.mark.parametrize("stray", ["link to nowhere", "file"])
def test_a_stage_that_is_no_folder_is_a_sentence_and_stays(
    store: Store, tmp_path: Path, stray: str
):
    STRAYS[stray](store.root / "s", tmp_path)  # its disk may not be mounted
    store.prepare()
    with pytest.raises(StoreError, match=r"artifacts/s: it is not a folder.*; mend or remove it"):
        store.make(Recipe("s", 1), note("hello"))
    assert os.path.lexists(store.root / "s")


@pytest.mark.parametrize("name", schemas.WRITTEN_BY)
def test_a_table_named_after_another_stage_is_held_against_its_schema_too(store: Store, name: str):
    stage, table = name.split("/")
    version = {"lensllm.schema_version": str(schemas.VERSION)}
    nonsense = pa.table({"nonsense": [1]}).replace_schema_metadata(version)
    recipe = Recipe(stage, 1)
    store.make(recipe, lambda folder: pq.write_table(nonsense, folder / f"{table}.parquet"))
    assert store.fault(recipe.ref) == f"{table}.parquet has not the columns of its schema"

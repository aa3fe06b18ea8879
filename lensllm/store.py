"""The store: content-addressed artefacts, ``<root>/<stage>/<key>/`` with Parquet tables inside.

An artefact's key is the SHA-256 of its *recipe*: stage, stage version, the parameters that matter
and the keys it was made from. It is published by renaming a complete directory, so it exists whole
or not at all; a manifest's checksums are verified on the first read; a kernel lock per key keeps
two processes from computing the same thing, and is freed by the kernel when its holder dies. On a
file system without locks two processes may compute the same thing, and the first one's counts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensllm import locks, schemas
from lensllm.errors import DiskFullError, StoreError
from lensllm.processes import alive, started

log = logging.getLogger("lensllm.store")
MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_NO_STAGES = {"prefect", "reports"}


@dataclass(frozen=True)
class Ref:
    """The name of an artefact: what stages pass to each other instead of its content."""

    stage: str
    key: str

    def __post_init__(self) -> None:
        # References are read from manifests too, which may come from elsewhere.
        if "/" in self.stage + self.key or {self.stage, self.key} & {".", ".."}:
            raise StoreError(f"no artefact can be called {self.stage!r}, {self.key!r}")

    def __str__(self) -> str:
        return f"{self.stage}/{self.key[:12]}"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an artefact; equal recipes are the same artefact."""

    stage: str
    version: int  # raised when the stage's meaning changes
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON values only
    upstream: Mapping[str, Ref] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON values, as the key hashes it and the manifest records it."""
        return {
            "stage": self.stage,
            "version": self.version,
            "params": dict(self.params),
            "upstream": {role: [ref.stage, ref.key] for role, ref in self.upstream.items()},
        }

    @cached_property
    def ref(self) -> Ref:
        return Ref(self.stage, _key(self.describe()))


def _key(described: Mapping[str, Any]) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache  # once in a process, however often its folder is prepared
def _say_there_are_no_locks(root: Path) -> None:
    log.warning(
        "artifacts folder %s: its file system has no locks, so two commands on it may compute the "
        "same thing twice; the results are right all the same",
        root,
    )


def write_table(folder: Path, table: str, rows: pd.DataFrame | list[dict[str, Any]]) -> None:
    """Write ``rows`` as the documented table ``stage/table`` into ``folder``.

    Raises ``KeyError`` when a column is missing: a stage and its schema must agree.
    """
    schema = schemas.schema(table)
    frame = pd.DataFrame(rows) if len(rows) else pd.DataFrame(columns=schema.names)
    content = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    content = content.replace_schema_metadata(schema.metadata)
    pq.write_table(content, folder / f"{table.split('/')[1]}.parquet")


class Store:
    """Artefacts under one root folder, shared by any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[Ref] = set()

    def prepare(self) -> None:
        """Create the root and remove what interrupted processes left behind.

        Raises ``StoreError`` when the folder cannot be written.
        """
        with _explained(self.root, errno.ENOENT):
            for name in (".tmp", ".locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".tmp" / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            if not self.lockable:
                _say_there_are_no_locks(self.root)
            self._collect_leftovers()

    @cached_property
    def lockable(self) -> bool:
        """Whether the file system has locks."""
        return locks.supported(self.root / ".tmp")

    def require_space(self, needed_bytes: int) -> None:
        """Raise ``StoreError`` when the disk has less than ``needed_bytes`` free."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise StoreError(
                f"artifacts folder {self.root}: its disk has {free / 1e6:.0f} MB free and a run "
                f"needs at least {needed_bytes / 1e6:.0f} MB; free some or choose another folder"
            )

    # --- reading ---------------------------------------------------------------------------
    def path(self, ref: Ref) -> Path:
        return self.root / ref.stage / ref.key

    def partial(self, ref: Ref) -> Path:
        """Where the maker of an artefact keeps what an interrupted build goes on from; it goes when
        the artefact is there."""
        return self.root / ".partial" / f"{ref.stage}-{ref.key}"

    def has(self, ref: Ref) -> bool:
        """Whether ``ref`` is there and undamaged; a damaged artefact is named in a warning."""
        if ref in self._verified:
            return True
        folder = self.path(ref)
        if not folder.is_dir():
            return False
        if fault := _fault(folder):
            log.warning("artefact %s is damaged (%s); it will be computed again", ref, fault)
            return False
        self._verified.add(ref)
        return True

    def refs(self, stage: str) -> list[Ref]:
        """Every undamaged artefact of a stage, by key."""
        folder = self.root / stage
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        return [ref for name in names if self.has(ref := Ref(stage, name))]

    def in_progress(self, ref: Ref) -> bool:
        """Whether some process holds the artefact's lock now."""
        if not (self.root / ".locks" / f"{ref.stage}-{ref.key}").exists():
            return False
        with self._lock(ref, wait=False) as free:
            return not free

    def manifest(self, ref: Ref) -> dict[str, Any]:
        self._require(ref)
        content: dict[str, Any] = json.loads((self.path(ref) / MANIFEST).read_text())
        return content

    def table(self, ref: Ref, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read one Parquet table of an artefact, or ``columns`` of it, checksums verified first."""
        self._require(ref)
        path = self.path(ref) / f"{name}.parquet"
        frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas()
        return frame

    def file(self, ref: Ref, name: str) -> Path:
        """Where a file of an artefact is, checksums verified first."""
        self._require(ref)
        return self.path(ref) / name

    def _require(self, ref: Ref) -> None:
        if not self.has(ref):
            raise StoreError(f"artefact {ref} is missing or damaged; run the pipeline again")

    def fault(self, ref: Ref) -> str:
        """What is wrong with an artefact that is there, "" if nothing: its files by the manifest,
        the manifest by the key, the tables by their schema. Reads all of it, every time."""
        folder = self.path(ref)
        if fault := _fault(folder):
            return fault
        content = json.loads((folder / MANIFEST).read_text())
        listed = content.pop("files")
        if content.get("stage") != ref.stage or _key(content) != ref.key:
            return "its manifest is not of this key"
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            if name != MANIFEST and name not in listed:
                return f"{name} is not in its manifest"
            if path.suffix == ".parquet" and (fault := _fault_of_table(path, ref.stage)):
                return f"{name} {fault}"
        return ""

    # --- writing ---------------------------------------------------------------------------
    def make(self, recipe: Recipe, build: Callable[[Path], None]) -> bool:
        """Make the artefact unless it is there; True when it was. ``build`` fills a fresh folder.

        Two processes that want the same artefact compute it once: the second waits and finds it.
        """
        ref = recipe.ref
        if self.has(ref):
            return True
        with _explained(self.root), self._lock(ref):
            if self.has(ref):
                return True
            self._discard(self.path(ref))
            folder = self.root / ".tmp" / self._draft(ref)
            shutil.rmtree(folder, ignore_errors=True)  # ours by the lock: its maker is dead
            folder.mkdir(parents=True)
            try:
                build(folder)
                self._publish(folder, recipe)
                shutil.rmtree(self.partial(ref), ignore_errors=True)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self._verified.add(ref)
        return False

    def _publish(self, folder: Path, recipe: Recipe) -> None:
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            _fsync(path)
        manifest = folder / MANIFEST
        manifest.write_text(json.dumps({**recipe.describe(), "files": files}, indent=1))
        _fsync(manifest)
        _fsync(folder)
        final = self.path(recipe.ref)
        final.parent.mkdir(exist_ok=True)
        try:
            folder.rename(final)
        except OSError as error:  # without locks somebody else may have been first
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _fsync(final.parent)

    # --- locks and leftovers -----------------------------------------------------------------
    @contextmanager
    def _lock(self, ref: Ref, *, wait: bool = True) -> Iterator[bool]:
        """Hold the kernel lock of ``ref``; yields False when ``wait`` is off and it is taken.

        The file is removed on release. A waiter may then hold a lock on a removed file, so it
        checks that the name still leads to the file it locked.
        """
        path = self.root / ".locks" / f"{ref.stage}-{ref.key}"
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # by the umask
            try:
                locks.take(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(handle)
                yield False
                return
            if _same_file(handle, path):
                break
            os.close(handle)
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _draft(self, ref: Ref) -> str:
        """The name of a folder that is being filled; without locks it has its maker in it."""
        name = f"{ref.stage}-{ref.key}"
        if self.lockable:
            return name
        return f"{name}@{socket.gethostname()}@{os.getpid()}@{started(os.getpid()):.2f}"

    def _collect_leftovers(self) -> None:
        """Remove temporary folders and lock files whose makers are dead (their lock is free)."""
        self._collect_unlocked()
        if not self.lockable:
            return
        names = {p.name for sub in (".tmp", ".locks") for p in (self.root / sub).iterdir()}
        for name in names:
            stage, _, key = name.rpartition("-")
            if not stage or stage.startswith(".") or "@" in name:
                continue
            with self._lock(Ref(stage, key), wait=False) as free:
                if free:
                    shutil.rmtree(self.root / ".tmp" / name, ignore_errors=True)
        for ref in self._partials():
            if self.path(ref).is_dir():  # its maker died between publishing and cleaning up
                with self._lock(ref, wait=False) as free:
                    if free:
                        shutil.rmtree(self.partial(ref), ignore_errors=True)

    def _collect_unlocked(self) -> None:
        """Remove what dead processes of this machine were filling without a lock."""
        for folder in (self.root / ".tmp").glob(f"*@{socket.gethostname()}@*@*"):
            _, _, pid, start = folder.name.rsplit("@", 3)
            if not alive(int(pid), float(start)):
                shutil.rmtree(folder, ignore_errors=True)

    def _partials(self) -> list[Ref]:
        """What interrupted builds would go on from."""
        folder = self.root / ".partial"
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        return [Ref(stage, key) for stage, _, key in (name.rpartition("-") for name in names)]

    def _discard(self, folder: Path) -> None:
        """Remove an artefact so that no reader ever sees half of it."""
        if folder.exists():
            grave = self.root / ".tmp" / self._draft(Ref(folder.parent.name, folder.name))
            shutil.rmtree(grave, ignore_errors=True)
            folder.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    def unreferenced(self, wanted: set[Ref]) -> list[Ref]:
        """Artefacts, begun ones too, that none of ``wanted`` names, for ``lensllm gc``."""
        present = self.present()
        present += [ref for ref in self._partials() if ref not in present]
        return [ref for ref in present if ref not in wanted]

    def present(self) -> list[Ref]:
        """Every artefact, damaged or not, by stage and key; a stage is a module's name, and what
        MLflow and reports keep beside them are none."""
        return [
            Ref(folder.parent.name, folder.name)
            for folder in sorted(self.root.glob("*/" + "[0-9a-f]" * 32))
            if folder.is_dir() and folder.parent.name.isidentifier()
            if folder.parent.name not in _NO_STAGES
        ]

    def being_made(self) -> list[Ref]:
        """What some process, this one included, is making now."""
        folder = self.root / ".locks"
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        refs = [Ref(stage, key) for stage, _, key in (name.rpartition("-") for name in names)]
        return [ref for ref in refs if self.in_progress(ref)]

    def refuse_while_used(self) -> None:
        """Raise ``StoreError`` when some process is making an artefact now."""
        if made := self.being_made():
            raise StoreError(
                f"artifacts folder {self.root}: a command is making {made[0]}; "
                "delete when it has ended"
            )

    def remove(self, ref: Ref) -> int:
        """Delete an artefact; the bytes freed."""
        with self._lock(ref):
            freed = self.size_bytes(ref)
            shutil.rmtree(self.partial(ref), ignore_errors=True)
            self._discard(self.path(ref))
            self._verified.discard(ref)
        return freed

    def remove_damaged(self, ref: Ref) -> None:
        """Delete an artefact unless somebody has mended it meanwhile."""
        with self._lock(ref):
            if self.path(ref).is_dir() and self.fault(ref):
                self._discard(self.path(ref))
                self._verified.discard(ref)

    def size_bytes(self, ref: Ref) -> int:
        folders = (self.path(ref), self.partial(ref))
        return sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())


def _fault(folder: Path) -> str:
    """What is wrong with the artefact in ``folder``; empty when nothing is."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, entry in files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                return f"{name} leads out of it"
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if _sha256(path) != entry["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return ""


def _fault_of_table(path: Path, stage: str) -> str:
    """Whether a table has the columns of its schema, if it was written by this version of it."""
    try:
        found = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return "cannot be read as a table"
    name = f"{stage}/{path.stem}"
    documented = schemas.TABLES.get(schemas.WRITTEN_BY.get(name, name))
    if documented is None or found.metadata != documented.metadata:
        return ""
    return "" if found.equals(documented) else "has not the columns of its schema"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _explained(root: Path, *more: int) -> Iterator[None]:
    """Turn what the file system refuses into a sentence; ``more`` numbers mean not writable."""
    try:
        yield
    except OSError as error:
        elsewhere = error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(root)
        if elsewhere:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"artifacts folder {root}: no space is left on its disk; free some and run the "
                "same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, *more):
            reason = "it cannot be written; choose another with --artifacts or change its mode"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason = "it is not a folder; choose another with --artifacts"
        else:
            raise
        raise StoreError(f"artifacts folder {root}: {reason}") from error

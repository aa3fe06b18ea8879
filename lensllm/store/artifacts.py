"""The store: content-addressed artefacts, ``<root>/<stage>/<key>/`` with Parquet tables inside.

An artefact's key is the SHA-256 of its *recipe*: stage, stage version, the parameters that matter
and the keys it was made from. It is published by renaming a complete folder, so it exists whole or
not at all. The checksums in its manifest are verified on the first read. A kernel lock per key
keeps two processes from computing the same thing; on a file system without locks they may, and the
first one's counts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensllm.core import locks
from lensllm.core.errors import DiskFullError, StoreError
from lensllm.core.processes import is_signature_of_dead, signature
from lensllm.store import lease, schemas

log = logging.getLogger("lensllm.store.artifacts")
MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES = 16 << 20  # 100,000 upstream references take 9 MB; it is parsed in memory
_NO_STAGES = {"prefect", "reports"}
_KEY = "[0-9a-f]" * 32
_announced: set[Path] = set()  # folders that this process has warned of
_announcing = threading.Lock()


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
            for name in (".tmp", ".locks", ".partial", lease.FOLDER):
                folder = self.root / name
                with suppress(OSError):  # removes no folder, which another command may just make
                    if not folder.is_dir():
                        folder.unlink()  # a stray file, or a link that leads nowhere
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".tmp" / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            if not self.lockable and self.root not in _announced:
                _announced.add(self.root)
                log.warning(
                    "artifacts folder %s: its file system has no locks, so two commands on it may "
                    "compute the same thing twice; the results are right all the same",
                    self.root,
                )
            self._collect_leftovers()

    @cached_property
    def lockable(self) -> bool:
        """True if the file system has locks."""
        return locks.supported(self.root / ".tmp")

    @contextmanager
    def using(self, holder: str = "a program") -> Iterator[None]:
        """Within the context ``gc --delete`` and ``verify --repair`` are refused in every process.

        They name ``holder``. Waits while one of them is at work.
        """
        with ExitStack() as stack:
            with _explained(self.root):
                stack.enter_context(lease.shared(self.root, holder))
            yield

    @contextmanager
    def alone(self, holder: str = "a program") -> Iterator[None]:
        """Within the context, which is for deleting, no other process uses the store.

        Raises ``StoreError`` when somebody uses it, or its disk has no locks.
        """
        with ExitStack() as stack:
            with _explained(self.root):
                stack.enter_context(lease.exclusive(self.root, holder))
            yield

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
        """The folder from which an interrupted build goes on; it goes when the artefact is made."""
        return self.root / ".partial" / f"{ref.stage}-{ref.key}"

    def has(self, ref: Ref) -> bool:
        """True if ``ref`` is there and undamaged; a damaged one is warned of once per process."""
        return not self._lack(ref)

    def _lack(self, ref: Ref) -> str:
        """The reason why ``ref`` cannot be read; empty when it can."""
        if ref in self._verified:
            return ""
        folder = self.path(ref)
        if not os.path.lexists(folder):
            return "is missing"
        if fault := _fault(folder, ref):
            with _announcing:
                if folder not in _announced:
                    _announced.add(folder)
                    log.warning(
                        "artefact %s is damaged (%s); it will be computed again", ref, fault
                    )
            return f"is damaged ({fault})"
        self._verified.add(ref)
        return ""

    def refs(self, stage: str) -> list[Ref]:
        """Every undamaged artefact of a stage, by key."""
        names = sorted(path.name for path in (self.root / stage).glob(_KEY))
        return [ref for name in names if self.has(ref := Ref(stage, name))]

    def manifests(self, stage: str) -> dict[Ref, dict[str, Any]]:
        """The manifests of a stage's artefacts, of which no file is verified."""
        found = {}
        for path in (self.root / stage).glob(_KEY):
            with suppress(OSError, ValueError, RecursionError):
                found[Ref(stage, path.name)] = _manifest(path)
        return found

    def in_progress(self, ref: Ref) -> bool:
        """True if some process holds the artefact's lock now."""
        if not (self.root / ".locks" / f"{ref.stage}-{ref.key}").exists():
            return False
        with self._lock(ref, wait=False) as free:
            return not free

    def manifest(self, ref: Ref) -> dict[str, Any]:
        self._require(ref)
        return _manifest(self.path(ref))

    def table(self, ref: Ref, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read one Parquet table of an artefact, or ``columns`` of it, checksums verified first."""
        self._require(ref)
        path = self.path(ref) / f"{name}.parquet"
        frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas()
        return frame

    def file(self, ref: Ref, name: str) -> Path:
        """The path of a file of an artefact, checksums verified first."""
        self._require(ref)
        return self.path(ref) / name

    def _require(self, ref: Ref) -> None:
        if lack := self._lack(ref):
            raise StoreError(f"artefact {ref} {lack}; run the pipeline again")

    def fault(self, ref: Ref) -> str:
        """The damage of an artefact that is there, "" if none; reads all of it, every time.

        Verifies the manifest by the key, the files by the manifest, tables by their schema.
        """
        folder = self.path(ref)
        if fault := _fault(folder, ref):
            return fault
        for path in sorted(folder.rglob("*.parquet")):
            if fault := _fault_of_table(path, ref.stage):
                return f"{path.relative_to(folder).as_posix()} {fault}"
        return ""

    # --- writing ---------------------------------------------------------------------------
    def make(self, recipe: Recipe, build: Callable[[Path], None]) -> bool:
        """Make the artefact unless it is there; True when it was. ``build`` fills a fresh folder.

        Two processes that want the same artefact compute it once: the second waits and finds it.
        """
        ref = recipe.ref
        if self.has(ref):
            return True
        with _explained(self.root), lease.shared(self.root), self._lock(ref):
            if self.has(ref):
                return True
            stage = self.root / ref.stage
            if os.path.lexists(stage) and not stage.is_dir():  # a link to a disk not mounted?
                where = f", it links to {stage.readlink()}" if stage.is_symlink() else ""
                raise StoreError(f"{stage}: it is not a folder{where}; mend or remove it")
            self._discard(ref)
            folder, partial = self._draft(ref), self.partial(ref)
            locks.remove(folder)  # ours by the lock: its maker is dead
            folder.mkdir(parents=True)
            if partial.is_symlink() or not partial.is_dir():
                locks.remove(partial)
            try:
                build(folder)
                self._publish(folder, recipe)
                locks.remove(partial)
            finally:
                locks.remove(folder)
        self._verified.add(ref)
        _announced.discard(self.path(ref))
        return False

    def _publish(self, folder: Path, recipe: Recipe) -> None:
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            files[path.relative_to(folder).as_posix()] = entry
            _fsync(path)
        manifest = folder / MANIFEST
        text = json.dumps({**recipe.describe(), "files": files}, indent=1)
        if not files or len(text) > _MOST_MANIFEST_BYTES:  # it would be damage to every reader
            raise ValueError(f"{recipe.ref}: {len(files)} files, a manifest of {len(text)} bytes")
        manifest.write_text(text)
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
        while True:
            handle = locks.open_file(path)
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

    def _draft(self, ref: Ref) -> Path:
        """The folder to be filled for an artefact; without locks its name has the maker in it.

        It is on the disk of the stage, which may be a link to another: only within a disk can
        folders be renamed.
        """
        stage = self.root / ref.stage
        place = stage if stage.is_symlink() or stage.is_mount() else self.root
        name = f"{ref.stage}-{ref.key}"
        return place / ".tmp" / (name if self.lockable else f"{name}@{signature()}")

    def _collect_leftovers(self) -> None:
        """Remove temporary folders and lock files whose makers are dead (their lock is free)."""
        lease.collect(self.root)
        drafts = [self.root / ".tmp", *self.root.glob("*/.tmp")]
        for draft in (path for folder in drafts for path in folder.glob("*@*@*@*")):
            if is_signature_of_dead(draft.name):
                locks.remove(draft)
        if not self.lockable:
            return
        for ref in {ref for folder in (*drafts, self.root / ".locks") for ref in _named(folder)}:
            with self._lock(ref, wait=False) as free:
                if free:
                    for folder in drafts:
                        locks.remove(folder / f"{ref.stage}-{ref.key}")
        for ref in _named(self.root / ".partial"):
            if self.path(ref).is_dir():  # its maker died between publishing and cleaning up
                with self._lock(ref, wait=False) as free:
                    if free:
                        locks.remove(self.partial(ref))

    def _discard(self, ref: Ref) -> None:
        """Remove an artefact so that no reader ever sees half of it, or what has its name."""
        folder = self.path(ref)
        if folder.is_dir() and not folder.is_symlink():
            grave = self._draft(ref)
            locks.remove(grave)
            grave.parent.mkdir(exist_ok=True)
            folder = folder.rename(grave)
        locks.remove(folder)

    def unreferenced(self, wanted: set[Ref]) -> list[Ref]:
        """Artefacts, begun ones too, that none of ``wanted`` names, for ``lensllm gc``."""
        present = self.present()
        present += [ref for ref in _named(self.root / ".partial") if ref not in present]
        return [ref for ref in present if ref not in wanted]

    def present(self) -> list[Ref]:
        """Every artefact, damaged or not, by stage and key."""
        return [
            Ref(folder.parent.name, folder.name)
            for folder in sorted(self.root.glob(f"*/{_KEY}"))
            if folder.parent.name.isidentifier()
            if folder.parent.name not in _NO_STAGES
        ]

    def being_made(self) -> list[Ref]:
        """The artefacts that some process, this one included, is making now."""
        return [ref for ref in _named(self.root / ".locks") if self.in_progress(ref)]

    def remove(self, ref: Ref) -> int:
        """Delete an artefact; the bytes freed."""
        with self._lock(ref):
            freed = self.size_bytes(ref)
            locks.remove(self.partial(ref))
            self._discard(ref)
            self._verified.discard(ref)
        return freed

    def remove_damaged(self, ref: Ref) -> None:
        """Delete an artefact unless somebody has mended it meanwhile."""
        with self._lock(ref):
            if os.path.lexists(self.path(ref)) and self.fault(ref):
                self._discard(ref)
                self._verified.discard(ref)

    def size_bytes(self, ref: Ref) -> int:
        folders = (self.path(ref), self.partial(ref))
        return sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())


def _named(folder: Path) -> list[Ref]:
    """The artefacts that names ``<stage>-<key>`` in ``folder`` stand for, in order."""
    found = (re.fullmatch(r"(\w+)-([0-9a-f]{32})", path.name) for path in folder.glob("*-*"))
    return [Ref(*parts.groups()) for parts in sorted(filter(None, found), key=lambda m: m.string)]


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest in ``folder``. Raises ``OSError``, ``ValueError``, ``RecursionError``."""
    # Of a pipe or a device there would be no end, and a link may lead to one.
    handle = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a plain file")
        text = stream.read(_MOST_MANIFEST_BYTES + 1)
    if len(text) > _MOST_MANIFEST_BYTES:
        raise ValueError("too large")
    content: dict[str, Any] = json.loads(text)
    return content


def _fault(folder: Path, ref: Ref) -> str:
    """The damage of the artefact ``ref`` in ``folder``; empty when there is none."""
    if not folder.is_dir():
        return "it is not a folder"
    try:
        content = _manifest(folder)
        files = content.pop("files")
        if content["stage"] != ref.stage or _key(content) != ref.key:
            return "its manifest is not of this key"
        if not files:
            return "its manifest lists no files"
        place = folder.resolve()
        for name, entry in files.items():
            path = folder / name
            if not path.resolve().is_relative_to(place):
                return f"{name} leads out of it"
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if _sha256(path) != entry["sha256"]:
                return f"{name} does not match its checksum"
        if more := set(_present(folder)) - {MANIFEST, *files}:
            return f"{min(more)} is not in its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest cannot be read"
    return ""


def _present(folder: Path | str, prefix: str = "") -> Iterator[str]:
    """Files below ``folder`` but hidden ones, which file systems and desktops leave there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _present(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _fault_of_table(path: Path, stage: str) -> str:
    """The fault of a table whose columns are not its schema's; "" for other schema versions."""
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
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        elif error.errno == errno.EXDEV:
            reason = "its .tmp is on another disk; make it a plain folder"
        else:
            raise
        raise StoreError(f"artifacts folder {root}: {reason}") from error

"""MLflow as a projection of the store: a parent run per pipeline run, a child per artefact.

Nothing is ever read back from it. Every write is idempotent, keyed by the artefact, so writes that
MLflow missed (it was off, its server was down, the command was killed) are made when it answers
again, or by the next run.
"""

import fcntl
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.core import locks
from lensllm.core.secrets import mask
from lensllm.core.sqlite import set_damaged_aside

if TYPE_CHECKING:  # importing MLflow takes 2 s; only the writing thread pays them
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger("lensllm.tracking")

_RUN_KEY = "lensllm.run_key"
_ARTEFACT_KEY = "artefact.key"
_PARENT = "mlflow.parentRunId"  # by which MLflow's page nests runs

_PAGE = 1000  # runs in one answer of a search
_LONGEST_PARAM = 500  # characters; the smallest limit among MLflow servers in use
_PARAMS_AT_ONCE = 100  # MLflow's limits for one log_batch
_METRICS_AT_ONCE = 1000
_SQLITE = "sqlite:///"
_RETRY_SECONDS = 60.0


Row = tuple[Mapping[str, Any], Mapping[str, float], int | None]  # params, metrics, step


@dataclass
class _Parent:
    """The parent run in MLflow: read once when it is opened, kept up to date by the writes."""

    run_id: str
    finished: bool  # in MLflow, with the metrics below
    metrics: dict[str, float]
    children: set[str] = field(default_factory=set)  # artefact keys, finished
    broken: dict[str, str] = field(default_factory=dict)  # artefact key -> half-written run


class Tracker:
    """Writes a run and its artefacts into an MLflow experiment, in a thread of its own.

    Calls return at once and writes keep their order, so neither a slow server nor MLflow's import
    holds up a cell. A failure is one warning; missing writes are made a minute later, or when that
    fails too, and the tracker is closed, by the next tracker of the same run.

    Args:
        uri: tracking URI. For a ``sqlite:///`` file the database is created, and figures go to
            ``mlflow-artifacts`` beside it.
        experiment: name; created.
        run_key: tag by which the parent run is found again; it is created if missing.
        name, params: of the parent run.
    """

    def __init__(
        self, uri: str, experiment: str, run_key: str, name: str, params: Mapping[str, Any]
    ) -> None:
        self._uri, self._experiment = uri, experiment
        self._key, self._name, self._params = run_key, name, params
        self._experiment_id = ""
        self._client: MlflowClient | None = None
        self._parent: _Parent | None = None
        self._writer = ThreadPoolExecutor(1, "lensllm-mlflow")
        self._due: deque[Callable[[], Any]] = deque()  # writes, in order
        self._retry_at = 0.0  # after a failure nothing is tried before this time.monotonic()
        self._later(self._opened)

    def child(self, artefact_key: str, name: str, read: Callable[[], Row]) -> None:
        """Write a finished artefact, unless it is there; only then it is read, by ``read``.

        Values that are not finite are left out. The row's step is the x of MLflow's charts.
        """
        self._later(partial(self._write_child, artefact_key, name, read))

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Close the parent run with its results. Nothing new since it was closed: no writes."""
        self._later(partial(self._finish, metrics, files))

    def page(self) -> str | None:
        """The tracking server's page of the parent run; None for a file, or after a failure."""
        if not self._uri.startswith("http"):
            return None
        parent = self._writer.submit(lambda: self._parent).result()
        if parent is None:
            return None
        return f"{self._uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{parent.run_id}"

    def close(self) -> None:
        """Wait for the writes that are still to be done, tried for the last time."""
        self._writer.submit(self._write)
        self._writer.shutdown()

    # --- in the writing thread ----------------------------------------------------------------
    def _later(self, write: Callable[[], Any]) -> None:
        def add() -> None:
            self._due.append(write)
            if time.monotonic() >= self._retry_at:
                self._write()

        self._writer.submit(add)

    def _write(self) -> None:
        """Make all due writes. A failure is a warning, and the next try is a minute later."""
        try:
            while self._due:
                self._due[0]()
                self._due.popleft()
        except Exception as error:
            if not self._retry_at:
                log.warning(
                    "MLflow at %s cannot be written (%s: %s); the run goes on without it. What is "
                    "missing is added when it answers again, or else by the next run.",
                    mask(self._uri),
                    type(error).__name__,
                    mask(str(error).strip().split("\n")[0]),
                )
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            # The failed write may be there by half: before the next write the run is read again.
            self._client = self._parent = None
            return
        if self._retry_at:
            self._retry_at = 0.0
            log.warning("MLflow at %s is written again, nothing is missing.", mask(self._uri))

    def _connected(self) -> "MlflowClient":
        """The client; the first call creates database and experiment, one process at a time."""
        if self._client is None:
            from mlflow import MlflowClient

            with _sole_creator(self._uri):
                client = MlflowClient(self._uri)
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    found = self._created(client)
                elif found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiment_id = found.experiment_id
            self._client = client
        return self._client

    def _created(self, client: "MlflowClient") -> "Experiment":
        """The experiment, made here or, on a server, at the same moment by another process."""
        from mlflow.exceptions import MlflowException

        try:
            made = client.create_experiment(self._experiment, _artifact_location(self._uri))
            return client.get_experiment(made)
        except MlflowException:
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return found

    def _opened(self) -> _Parent:
        """The parent run, found or created, and its children."""
        if self._parent is not None:
            return self._parent
        client = self._connected()
        run = self._first()
        if run is None:
            tags = {_RUN_KEY: self._key}
            ours = client.create_run(self._experiment_id, tags=tags, run_name=self._name)
            run = self._first() or ours
            if run.info.run_id != ours.info.run_id:  # another process made one at the same moment
                client.delete_run(ours.info.run_id)
        if not run.data.params:  # new, or its maker was killed right here
            self._log(run.info.run_id, self._params, {}, None)
        opened = _Parent(run.info.run_id, run.info.status == "FINISHED", dict(run.data.metrics))
        for key, child in self._children(opened.run_id).items():
            if child.info.status == "FINISHED":
                opened.children.add(key)
            else:
                opened.broken[key] = child.info.run_id
        self._parent = opened
        return opened

    def _first(self) -> "Run | None":
        """The oldest run with the key: processes that open a parent at once agree on it."""
        there = self._tagged(_RUN_KEY, self._key)
        return min(there, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _children(self, parent_id: str) -> "dict[str, Run]":
        """The children by artefact; all but one of an artefact's are deleted.

        Two commands may write one at once, and a killed server may have had it already when it was
        asked again. All processes agree on the one that stays.
        """
        children: dict[str, Run] = {}
        for run in sorted(
            self._tagged(_PARENT, parent_id),
            key=lambda run: (run.info.status != "FINISHED", run.info.start_time, run.info.run_id),
        ):
            key = run.data.tags.get(_ARTEFACT_KEY, "")
            if children.setdefault(key, run) is not run:
                self._connected().delete_run(run.info.run_id)
        return children

    def _write_child(self, artefact_key: str, name: str, read: Callable[[], Row]) -> None:
        opened, client = self._opened(), self._connected()
        if artefact_key in opened.children:
            return
        row = read()
        if artefact_key in opened.broken:
            client.delete_run(opened.broken.pop(artefact_key))
        tags = {_PARENT: opened.run_id, _ARTEFACT_KEY: artefact_key}
        run = client.create_run(self._experiment_id, tags=tags, run_name=name)
        self._log(run.info.run_id, *row)
        client.set_terminated(run.info.run_id, "FINISHED")
        opened.children.add(artefact_key)
        opened.finished = False

    def _finish(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        opened, client = self._opened(), self._connected()
        wanted = {_name(key): value for key, value in metrics.items() if math.isfinite(value)}
        if opened.finished and wanted.items() <= opened.metrics.items():
            return
        self._children(opened.run_id)  # another command may have written the same ones meanwhile
        self._log(opened.run_id, {}, wanted, None)
        for file in files:
            client.log_artifact(opened.run_id, str(file))
        client.set_terminated(opened.run_id, "FINISHED")
        opened.finished, opened.metrics = True, wanted

    def _tagged(self, tag: str, value: str) -> "Iterator[Run]":
        client, token = self._connected(), None
        query = f"tags.`{tag}` = '{value}'"
        while True:
            page = client.search_runs(
                [self._experiment_id], query, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _log(
        self,
        run_id: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        step: int | None,
    ) -> None:
        """Write params and finite metrics in batches that MLflow takes."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        few = [Param(_name(key), str(value)[:_LONGEST_PARAM]) for key, value in params.items()]
        finite = {_name(key): float(v) for key, v in metrics.items() if math.isfinite(v)}
        many = [Metric(key, value, now, step or 0) for key, value in finite.items()]
        batches = max(-(-len(few) // _PARAMS_AT_ONCE), -(-len(many) // _METRICS_AT_ONCE))
        for i in range(batches):
            self._connected().log_batch(
                run_id,
                metrics=many[i * _METRICS_AT_ONCE : (i + 1) * _METRICS_AT_ONCE],
                params=few[i * _PARAMS_AT_ONCE : (i + 1) * _PARAMS_AT_ONCE],
            )


def _name(key: str) -> str:
    """``key`` with ``_`` for every character that MLflow does not allow in names."""
    return re.sub(r"[^\w./: -]", "_", key)


def _artifact_location(uri: str) -> str | None:
    """The URI of an experiment's files; None: the tracking server decides."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlflow-artifacts").as_uri()


@contextmanager
def _sole_creator(uri: str) -> Iterator[None]:
    """Hold a lock beside a SQLite file: of several processes that create it all but one fail."""
    if not uri.startswith(_SQLITE):
        yield
        return
    database = Path(uri.removeprefix(_SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("a") as lock:
        locks.take(lock, fcntl.LOCK_EX)
        set_damaged_aside(database)
        yield

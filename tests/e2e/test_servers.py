"""Prefect and MLflow servers on PostgreSQL: a run on both, many at once, and a worker that runs
what was deployed."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from flows.server.loopback import answers
from tests.e2e.conftest import COMMAND, ROOT, environment
from tests.postgresql import missing, postgresql
from tests.tasks import project
from tests.waiting import HANG_SECONDS, wait

psycopg2 = pytest.importorskip("psycopg2", reason="MLflow on PostgreSQL needs psycopg2-binary")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

_WRITERS = 8
_RUNS, _METRICS = 10, 20  # of each writer; of each run


# --- servers --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def databases() -> Iterator[dict[str, str]]:
    with postgresql("prefect", "mlflow") as addresses:
        yield addresses


@contextmanager
def serving(module: str, *words: str, health: str, log: Path, **settings: str) -> Iterator[str]:
    """``python -m MODULE …`` on a free port until the block ends: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", module, "server", *words, *where],
            env=environment() | {"PREFECT_HOME": str(log.parent), **settings},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{url}{health}") or server.poll() is not None, log.read_text)
        assert server.poll() is None, log.read_text()
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.fixture(scope="module")
def mlflow(databases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    store = ["--backend-store-uri", databases["mlflow"]]
    files = ["--artifacts-destination", str(folder / "files"), "--workers", "1"]
    with serving(
        "mlflow",
        *store,
        *files,
        health="/health",
        log=folder / "log",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # seven more processes, of no use here
    ) as url:
        yield url


@pytest.fixture(scope="module")
def prefect(databases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prefect")
    with serving(
        "prefect",
        "start",
        health="/api/health",
        log=folder / "log",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=databases["prefect"].replace(":", "+asyncpg:", 1),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=(
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    ) as url:
        yield f"{url}/api"


def rows(address: str, query: str) -> list[tuple[Any, ...]]:
    """What the database itself says."""
    connection = psycopg2.connect(address)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    finally:
        connection.close()


# --- many at once ---------------------------------------------------------------------------------
_WRITER = """
import sys
from tasks.execution.tracking import Tracker

uri, writer, runs, metrics = sys.argv[1], *map(int, sys.argv[2:])
from mlflow import MlflowClient  # before the start: it takes seconds
print("ready", flush=True)
sys.stdin.readline()
tracker = Tracker(uri, "at-once", "key", "at-once", {"sweep.max": 800})
for number in range(runs):
    values = {f"metric-{i}": float(i) for i in range(metrics)}
    row = {}, values, None
    tracker.child(f"{writer}-{number}", f"cell {writer} {number}", lambda row=row: row)
tracker.close()
"""


def test_eight_processes_that_log_at_once_lose_no_metric(
    mlflow: str, databases: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands of one pipeline that begin at the same moment, on an MLflow that is empty."""
    counts = [str(_RUNS), str(_METRICS)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, mlflow, str(i), *counts],
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(_WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    started = time.monotonic()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    seconds = time.monotonic() - started
    assert [writer.returncode for writer in writers] == [0] * _WRITERS
    children = "runs JOIN tags USING (run_uuid) WHERE tags.key = 'artefact.key'"
    live = "runs.lifecycle_stage = 'active'"
    found = rows(databases["mlflow"], f"SELECT tags.value, runs.status FROM {children} AND {live}")
    assert Counter(status for _, status in found) == {"FINISHED": _WRITERS * _RUNS}
    assert len({key for key, _ in found}) == _WRITERS * _RUNS
    stored = rows(
        databases["mlflow"],
        "SELECT count(*), sum(metrics.value) FROM metrics JOIN runs USING (run_uuid) "
        f"JOIN tags USING (run_uuid) WHERE tags.key = 'artefact.key' AND {live}",
    )
    each = sum(range(_METRICS))
    assert stored == [(_WRITERS * _RUNS * _METRICS, _WRITERS * _RUNS * each)]
    parents = f"runs JOIN tags USING (run_uuid) WHERE tags.key = 'lensllm.run_key' AND {live}"
    assert len(rows(databases["mlflow"], f"SELECT run_uuid FROM {parents}")) == 1
    with capsys.disabled():
        count = _WRITERS * _RUNS * _METRICS
        print(f"\n{_WRITERS} processes, {count} metrics: {seconds:.1f} s", end=" ")


_FLOW = """
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

@task(cache_policy=NO_CACHE, persist_result=False)
def cell(i):
    return i

@flow(name="at-once")
def sweep():
    return sum(future.result() for future in cell.map(range(40)))

assert sweep() == sum(range(40))
"""


@pytest.mark.full
def test_eight_flows_at_once_lose_no_task_run(prefect: str, databases: dict[str, str]) -> None:
    env = environment() | {"PREFECT_API_URL": prefect, "PREFECT_LOGGING_LEVEL": "ERROR"}
    flows = [subprocess.Popen([sys.executable, "-c", _FLOW], env=env) for _ in range(_WRITERS)]
    assert [flow.wait() for flow in flows] == [0] * _WRITERS
    query = (
        "SELECT task_run.state_type FROM task_run JOIN flow_run ON flow_run_id = flow_run.id "
        "JOIN flow ON flow_id = flow.id WHERE flow.name = 'at-once'"
    )

    def completed() -> bool:
        counts = Counter(state for (state,) in rows(databases["prefect"], query))
        return counts == {"COMPLETED": 40 * _WRITERS}

    wait(completed, "all task runs")


# --- pipelines ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A configuration file with tiny candidates in folders beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    config = project.write_inputs(folder, rows=160).model_dump(mode="json")
    del config["curvature"], config["heavy_tails"]
    config["sweep"] |= {"max": 16, "measure_target": False}
    config["kernel"] = {"enabled": False}
    config["tracking"] = {"uri": request.getfixturevalue("mlflow")}
    nightly = config | {"schedule": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}}
    hourly = config | {"seed": 1, "schedule": {"cron": "5 * * * *", "overlap": "cancel"}}
    pipelines = {"nightly": nightly, "hourly": hourly}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": pipelines}))
    return folder


def lensllm(prefect: str, *words: str | Path) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=ROOT,
        env=environment() | {"PREFECT_API_URL": prefect},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(prefect: str, path: str, content: dict[str, Any] | None = None) -> Any:
    """The API's answer."""
    data = None if content is None else json.dumps(content).encode()
    request = Request(f"{prefect}{path}", data=data, headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=HANG_SECONDS) as answer:
        return json.load(answer)


@pytest.mark.full
def test_a_run_is_recorded_by_both(
    prefect: str, mlflow: str, databases: dict[str, str], checkout: Path
) -> None:
    where = ("--file", checkout / "pipelines.yaml", "--artifacts", checkout / "by-hand")
    said = json.loads(lensllm(prefect, "run", "nightly", *where, "--json"))
    assert said["failed"] == []

    def recorded() -> bool:
        query = "SELECT state_name FROM task_run WHERE 'narrow' IN (SELECT jsonb_array_elements_text(tags))"
        return Counter(rows(databases["prefect"], query)).keys() == {("Completed",)}

    wait(recorded, "all task runs")
    artifacts = ask(prefect, "/artifacts/filter", {})
    verdict = next(a for a in artifacts if a["key"] == "verdict-nightly")
    assert f"[its run]({mlflow}/#/experiments/" in verdict["data"]
    names = rows(databases["mlflow"], "SELECT name FROM runs WHERE status = 'FINISHED'")
    assert {("nightly",), ("finetune narrow · D=4 · repeat 0",)} <= set(names)
    again = json.loads(lensllm(prefect, "run", "nightly", *where, "--json"))
    assert (again["computed"], again["ranking"]) == (0, said["ranking"])
    kept = rows(databases["mlflow"], "SELECT name FROM runs WHERE status = 'FINISHED'")
    assert Counter(kept) == Counter(names)


@pytest.fixture
def worker(prefect: str, tmp_path: Path) -> Iterator[None]:
    """A process that runs what is deployed to the pool ``lensllm``."""
    settings = {"PREFECT_API_URL": prefect, "PREFECT_HOME": str(tmp_path)}
    settings |= {"PREFECT_WORKER_QUERY_SECONDS": "2", "PYTHONPATH": str(ROOT)}
    working = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "lensllm"],
        env=environment() | settings,
        start_new_session=True,
    )
    yield
    os.killpg(working.pid, signal.SIGKILL)  # Prefect's worker does not always end by SIGTERM
    working.wait()


@pytest.mark.full
def test_a_worker_runs_what_was_deployed(
    prefect: str, checkout: Path, request: pytest.FixtureRequest
) -> None:
    where = ("--file", checkout / "pipelines.yaml", "--artifacts", checkout / "deployed")
    said = json.loads(lensllm(prefect, "deploy", *where, "--json"))
    assert {"nightly", "hourly"} == {d["pipeline"] for d in said["deployments"]}
    request.getfixturevalue("worker")  # its pool is there now

    def start(pipeline: str) -> str:
        deployment = ask(prefect, f"/deployments/name/scheduled/{pipeline}")
        assert deployment["schedules"][0]["active"]
        created = ask(prefect, f"/deployments/{deployment['id']}/create_flow_run", {})
        return str(created["id"])

    def state(run: str, *names: str) -> str:
        """The first of ``names`` that the run comes to; its message."""
        found: Any = wait(
            lambda: (now := ask(prefect, f"/flow_runs/{run}")["state"])["name"] in names and now,
            f"one of {names}",
        )
        return f"{found['name']}: {found['message']}"

    first = start("nightly")
    state(first, "Running")
    second = start("nightly")  # overlap: wait
    assert state(second, "AwaitingConcurrencySlot")
    assert state(first, "Completed", "Failed", "Crashed").startswith("Completed: computed checks 1")
    assert state(second, "Unchanged", "Failed").startswith("Unchanged: nothing changed since 20")

    first = start("hourly")
    state(first, "Running")
    second = start("hourly")  # overlap: cancel
    assert state(second, "Cancelled", "Completed", "Unchanged").startswith("Cancelled")
    assert state(first, "Completed", "Failed", "Crashed").startswith("Completed: computed checks 1")

    file = checkout / "pipelines.yaml"
    content = yaml.safe_load(file.read_text())
    del content["pipelines"]["hourly"]["schedule"]
    file.write_text(yaml.safe_dump(content))
    assert json.loads(lensllm(prefect, "deploy", *where, "--json"))["removed"] == ["hourly"]


# --- messages -------------------------------------------------------------------------------------
_SCHEDULED = """
from prefect import flow
from prefect.states import Completed

@flow(name="scheduled", flow_run_name="{name}", persist_result=False)
def scheduled(name, state):
    return Completed(name=state, message=f"as {name} has it")

scheduled("quiet", "Unchanged")
scheduled("tickets", "Incomplete")
"""


@pytest.mark.full
def test_the_guides_message_arrives(prefect: str) -> None:
    """The guide's own lines, with another address: told of what is new, not of what is not."""
    received: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    chat = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=chat.serve_forever, daemon=True).start()
    guide = (ROOT / "docs" / "guides" / "server.md").read_text()
    (lines,) = (b for b in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "Webhook" in b)
    there = f"http://127.0.0.1:{chat.server_port}/hook"
    assert "https://chat.example/hook" in lines
    env = environment() | {"PREFECT_API_URL": prefect, "PREFECT_LOGGING_LEVEL": "ERROR"}
    for text in (lines.replace("https://chat.example/hook", there), _SCHEDULED):
        subprocess.run([sys.executable, "-c", text], env=env, check=True, timeout=HANG_SECONDS)
    assert "tickets: Incomplete. as tickets has it" in received.get(timeout=HANG_SECONDS)
    chat.shutdown()
    assert received.empty()

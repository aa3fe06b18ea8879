"""One real server for all commands on a folder: found, shared, recorded, and gone with the last."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from fastapi.routing import APIWebSocketRoute
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.server.access import authorization
from flows.server.loopback import answers
from flows.server.prefect_server import Server, embedded_server, server_home
from lensllm.core.errors import ConfigError, LensError
from lensllm.store.artifacts import Store
from tests.waiting import HANG_SECONDS, ends, wait

# A command: joins the server, runs a flow of N tasks, says where, and ends when told to.
_COMMAND = """
import sys
from pathlib import Path
from flows.server.environment import prepare
from flows.server.prefect_server import embedded_server

home = Path(sys.argv[1])
prepare(home.parent)
with embedded_server(home) as server:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @task(cache_policy=NO_CACHE, persist_result=False)
    def cell(i):
        return i

    @flow(name="sweep")
    def sweep(n):
        return sum(future.result() for future in cell.map(range(n)))

    assert sweep(int(sys.argv[2])) == sum(range(int(sys.argv[2])))
    print(server.url, flush=True)
    sys.stdin.readline()
"""

_STATES = """
SELECT task_run.state_type FROM task_run
JOIN flow_run ON task_run.flow_run_id = flow_run.id
JOIN flow ON flow_run.flow_id = flow.id
WHERE flow.name = 'sweep'
"""


def command(home: Path, tasks: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", _COMMAND, str(home), str(tasks)]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def url_of(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def server_pid(home: Path) -> int:
    return int(json.loads((home / "server.json").read_text())["pid"])


def test_commands_share_a_server_until_the_last_is_killed(home: Path) -> None:
    """Two at once start one server; it outlives the first to end, is complete, and dies with -9."""
    first, second = command(home, 40), command(home, 20)
    url = url_of(first)
    assert url == url_of(second)
    pid = server_pid(home)

    _, printed = first.communicate("end\n")
    assert (first.returncode, printed) == (0, "")
    assert answers(f"{url}/health")

    second.kill()
    second.communicate()
    assert ends(pid)
    assert not answers(f"{url}/health")
    with sqlite3.connect(home / "prefect.db") as database:
        states = Counter(database.execute(_STATES))
    assert states == {("COMPLETED",): 60}


def test_a_server_on_a_port_of_ones_own_with_its_web_page(home: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_server(home, port) as server:
        url = server.url
        assert url == f"http://127.0.0.1:{port}/api"
        assert os.environ["PREFECT_API_URL"] == url
        pid = server_pid(home)
        assert (home / "server.json").stat().st_mode & 0o777 == 0o600
        assert server.secret not in repr(server)
        assert os.environ["PREFECT_API_AUTH_STRING"] == server.secret
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                assert server.secret not in " ".join(process.cmdline())
        with embedded_server(home) as named:  # the flow of a command may ask again
            assert named.url == url
        settings = json.loads(fetch(server, "/ui-settings"))
        assert (settings["api_url"], settings["auth"]) == ("/api", "BASIC")
        assert "<!DOCTYPE html>" in fetch(server, "/v2/")
        from prefect.client.orchestration import get_client  # imported by now, or only here

        with get_client(sync_client=True) as client:
            assert str(client.api_url).rstrip("/") == url
        for path in sockets():
            refuse_without_secret(url.replace("http", "ws", 1) + path)
    assert not {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"} & os.environ.keys()
    assert ends(pid)


def sockets() -> list[str]:
    """Paths of all of Prefect's WebSockets."""
    from prefect.server.api.server import API_ROUTERS

    routes = [route for router in API_ROUTERS for route in router.routes]
    paths = [route.path for route in routes if isinstance(route, APIWebSocketRoute)]
    assert "/events/in" in paths
    return [path.replace("{work_pool_name}", "any") for path in paths]


def refuse_without_secret(address: str) -> None:
    for token in ("", "lensllm:wrong"):
        with connect(address, subprotocols=[Subprotocol("prefect")]) as channel:
            channel.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed):
                channel.recv(timeout=HANG_SECONDS)
    with pytest.raises(InvalidStatus), connect(address):
        pass  # without Prefect's protocol nobody would ask


def fetch(server: Server, path: str) -> str:
    connection = HTTPConnection(urlsplit(server.url).netloc)
    headers = {"Accept": "text/html", "Authorization": authorization(server.secret)}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read().decode()


def test_a_server_that_is_killed_leaves_its_port_to_its_successor_alone(home: Path) -> None:
    """Who connects meanwhile waits; nobody else gets the port and is told the secret."""
    with embedded_server(home) as server:
        pid, port = server_pid(home), urlsplit(server.url).port
        os.kill(pid, signal.SIGKILL)
        assert ends(pid)
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port or 0))
        assert fetch(server, "/api/version")  # waits for the one that is started in its place
        noted = Server(**json.loads((home / "server.json").read_text()))
        assert (noted.url, noted.secret) == (server.url, server.secret)
        assert noted.pid != pid


def test_whoever_comes_while_a_used_server_is_dead_gets_it_where_it_was(home: Path) -> None:
    """Else those who use it would ask at an address where nobody answers."""
    first = command(home, 3)
    url = url_of(first)
    os.kill(server_pid(home), signal.SIGKILL)
    second = command(home, 3)
    assert url_of(second) == url
    for one in (first, second):
        _, said = one.communicate("end\n")
        assert (one.returncode, "Traceback" in said) == (0, False), said


def test_a_server_that_is_killed_while_it_starts_is_started_again(home: Path) -> None:
    note = home / "server.json"
    note.unlink(missing_ok=True)
    killed: list[int] = []

    def kill_the_first() -> None:
        wait(note.exists, "the first server")
        killed.append(server_pid(home))
        os.kill(killed[0], signal.SIGKILL)
        wait(lambda: server_pid(home) != killed[0], "the second server")
        url = json.loads(note.read_text())["url"]
        wait(lambda: answers(f"{url}/health"), "its answer")
        killed.append(0)

    with embedded_server(home, while_starting=kill_the_first) as server:
        assert killed[1:] == [0]  # it was waited for
        assert server.pid != killed[0]
        assert fetch(server, "/api/version")


def test_a_folder_in_the_place_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the artifacts folder has no locks; its maker could read what is put into it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(tmp_path / "artifacts")
    store.__dict__["lockable"] = False
    folder = tmp_path / f"lensllm-{os.getuid()}"
    assert server_home(store).parent == folder
    folder.chmod(0o720)
    with pytest.raises(LensError, match="is not yours alone"):
        server_home(store)
    folder.chmod(0o700)
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.lchown(folder, os.getuid() + 1, -1)
    with pytest.raises(LensError, match="is not yours alone"):
        server_home(store)


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(
                ConfigError, match=rf"^Port {port} of 127\.0\.0\.1 cannot be used .*choose"
            ),
            embedded_server(tmp_path, port),
        ):
            pass
    assert not (tmp_path / "server.json").exists()


def test_a_server_the_user_names_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://cluster:4200/api")
    with embedded_server(tmp_path / "prefect") as server:
        assert (server.url, server.entry_link()) == (
            "http://cluster:4200/api",
            "http://cluster:4200",
        )
    assert os.environ["PREFECT_API_URL"] == "http://cluster:4200/api"
    assert not (tmp_path / "prefect").exists()


def test_notes_of_a_server_that_is_gone_are_not_believed(tmp_path: Path) -> None:
    """A note of a dead process, or one cut short, means: start one (here: on a port in use)."""
    dead = '{"url": "http://127.0.0.1:9/api", "pid": 1, "start": 0.0, "secret": "lensllm:old"}'
    for note in (dead, '{"url": "ht'):
        (tmp_path / "server.json").write_text(note)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            with (
                pytest.raises(ConfigError, match="cannot be used"),
                embedded_server(tmp_path, other.getsockname()[1]),
            ):
                pass


def test_requests_that_read_and_then_write_wait_for_each_other(home: Path) -> None:
    """Refused ones are asked again by Prefect's client, but only after it has slept two seconds."""
    with embedded_server(home) as server:

        def ask(i: int) -> list[int]:
            lease = {"names": [f"tag:{i}"], "slots": 1, "lease_duration": 60}
            asked = [("/v2/concurrency_limits/increment-with-lease", lease)]
            asked += [("/flows/", {"name": f"flow {i} {k}"}) for k in range(3)]
            return [posted(server, path, body) for path, body in asked]

        with ThreadPoolExecutor(8) as pool:
            statuses = Counter(status for seen in pool.map(ask, range(60)) for status in seen)

    assert set(statuses) <= {200, 201}, statuses


def posted(server: Server, path: str, body: dict[str, Any]) -> int:
    parts = urlsplit(server.url + path)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=HANG_SECONDS)
    headers = {
        "Content-Type": "application/json",
        "Authorization": authorization(server.secret),
    }
    connection.request("POST", parts.path, json.dumps(body), headers)
    status = connection.getresponse().status
    connection.close()
    return status

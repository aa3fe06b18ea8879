"""One Prefect server on this machine's loopback for all commands on one artifacts folder.

Prefect by itself would start one server PER PROCESS (15 s, 225 MB each, left behind by
``kill -9``). Here the first command starts one child, later ones find and share it, and the last
to end takes it down (``flows.server_child``). The files in ``home``:

    server.turn   locked while a command looks for the server and, if there is none, starts it
    server.users  locked, shared, by every command that uses the server
    server.json   where it listens and which process it is
    server.log    what it printed
"""

import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from flows import recorder
from lensllm import locks
from lensllm.errors import ConfigError, LensError
from lensllm.processes import alive, started
from lensllm.sqlite import set_damaged_aside
from lensllm.store import Store

_START_SECONDS = 180.0  # 4-8 s on an idle machine; the first start also builds the database
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # how late a server's death may be noticed

log = logging.getLogger("lensllm.server")


class ServerError(LensError):
    """The embedded server could not be started."""


@dataclass(frozen=True)
class Server:
    """A server process: where it listens and which process it is."""

    url: str  # of the API, ending in /api
    pid: int
    start: float  # as processes.started says, tells it from a later one of the same number


@contextmanager
def embedded_server(home: Path, port: int | None = None) -> Iterator[str]:
    """Within the context there is a Prefect server; its API's URL is yielded and announced.

    A server that the user names in PREFECT_API_URL is used as it is and none is started. A server
    that another command runs for ``home`` is shared, whatever ``port`` says.

    Args:
        home: folder of the server's database and log; created.
        port: of the loopback interface, for a server that has to be started; None: a free one.

    Raises:
        ConfigError: the port is in use.
        ServerError: the server did not come up.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        yield named
        return
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "server.users").open("a") as users:
        with (home / "server.turn").open("a") as turn:
            locks.take(turn, fcntl.LOCK_EX)
            locks.take(users, fcntl.LOCK_SH)  # waits for a server that is just going down
            server = _running(home)
            child = None if server else _start(home, listener(port))
            server = server or _running(home)
        if server is None:
            raise ServerError(f"The Prefect server did not start; {last_line(home / 'server.log')}")
        kept = _Kept(home, server, child)
        try:
            with kept, _announced(server.url):
                yield server.url
        finally:
            _leave(users, server, kept.child)


class _Kept:
    """Within the context a server that dies is started again at the same address.

    Cells do not need it, but Prefect asks it before each of them and tries again for about a
    minute: a run without its server would crawl. What it was told and had not written is lost; the
    next command marks such task runs as crashed.
    """

    def __init__(self, home: Path, server: Server, child: subprocess.Popen[bytes] | None) -> None:
        self.child = child  # whom we started, to be seen off
        self._home, self._server = home, server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lensllm-server", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if not alive(self._server.pid, self._server.start):
                try:
                    self._restart()
                except (LensError, OSError) as error:
                    log.error(
                        "The Prefect server is gone and cannot be started again (%s), so this "
                        "command ends.",
                        error,
                    )
                    # Not SIGTERM, which Prefect takes and would tell the server of, for minutes.
                    os.kill(os.getpid(), signal.SIGINT)
                    return

    def _restart(self) -> None:
        """Whichever of the commands comes first starts one; the others find it."""
        if self.child is not None:
            self.child.poll()  # else a dead child stays a zombie
        with (self._home / "server.turn").open("a") as turn:
            locks.take(turn, fcntl.LOCK_EX)
            server = _running(self._home)
            if server is None:
                log.warning("The Prefect server is gone; another one is started in its place.")
                self.child = _start(self._home, listener(urlsplit(self._server.url).port))
                server = _running(self._home)
        if server is None:
            raise ServerError(last_line(self._home / "server.log"))
        self._server = server


def server_home(store: Store) -> Path:
    """Where the server of an artifacts folder keeps its files: in it; where that has no locks,
    which the server and its database need, in this machine's temporary folder."""
    if store.lockable:
        return store.root / "prefect"
    name = hashlib.sha256(str(store.root.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lensllm-{os.getuid()}" / name


def reports_address(artifacts: Path, file: Path) -> str | None:
    """Where the embedded server shows a file of ``artifacts/reports``, on whatever port it is: a
    link from one of its own pages. None when another server is used."""
    try:
        noted = json.loads((artifacts / "prefect" / "server.json").read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if noted != os.environ.get("PREFECT_API_URL"):
        return None
    return quote(f"/reports/{file.relative_to(artifacts / 'reports').as_posix()}")


def listener(port: int | None) -> socket.socket:
    """A socket bound to a loopback port, to be handed to the process that will listen there.

    Bound here, so that nobody can take the port in between, and a port in use is known at once.
    """
    bound = socket.socket()
    if port:  # one that was in use a moment ago will do; a free one must be free for certain
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port or 0))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Port {port} of 127.0.0.1 cannot be used ({error.strerror}): "
            "choose another one, or leave it out to get a free one."
        ) from error
    # Its connections inherit this: a dead server's do not keep its successor from the port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound


def answers(url: str) -> bool:
    """Whether a GET of ``url`` gives 200. Asked directly: a proxy has no business on loopback."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def wait_until_up(url: str, pid: int, start: float) -> bool:
    """Whether ``url`` answers before its process dies or the time is up."""
    deadline = time.monotonic() + _START_SECONDS
    while alive(pid, start) and time.monotonic() < deadline:
        if answers(url):
            return True
        time.sleep(0.05)
    return False


def _running(home: Path) -> Server | None:
    """The server noted in ``home``, once it answers; None if there is none or it died."""
    try:
        server = Server(**json.loads((home / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    up = wait_until_up(f"{server.url}/health", server.pid, server.start)
    return server if up else None


def _start(home: Path, bound: socket.socket) -> subprocess.Popen[bytes]:
    """Start the child and note it at once: whoever comes next, even if we die now, finds it."""
    host, port = bound.getsockname()
    set_damaged_aside(home / "prefect.db")
    with bound, (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.server_child",
                str(bound.fileno()),
                home / "server.users",
            ],
            pass_fds=[bound.fileno()],
            env=_environment(home, host, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the commands that use the server
        )
    server = Server(f"http://{host}:{port}/api", child.pid, started(child.pid) or 0.0)
    draft = home / "server.json.new"
    draft.write_text(json.dumps(asdict(server)))
    draft.replace(home / "server.json")
    return child


def _environment(home: Path, host: str, port: int) -> dict[str, str]:
    """The child's environment: ours, and what must be so for this server."""
    return (
        recorder.SETTINGS
        | os.environ
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_API_HOST": host,  # the web page is told where the API is from these two
            "PREFECT_SERVER_API_PORT": str(port),
            # By default the page's files are copied into site-packages, which may be read-only.
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        }
    )


def last_line(log: Path) -> str:
    """For messages: where a child's log is and what it ends with."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"its log {log} ends with: {last}"


@contextmanager
def _announced(url: str) -> Iterator[None]:
    """Name the server in the environment, for Prefect in this process and in those we start."""
    os.environ["PREFECT_API_URL"] = url
    _reread_settings()
    try:
        yield
    finally:
        recorder.send_everything()
        del os.environ["PREFECT_API_URL"]
        _reread_settings()


def _reread_settings() -> None:
    """Prefect reads the environment at its import; if that has begun, have it read once more."""
    if "prefect.context" in sys.modules:
        from prefect import context  # waits for another thread that is importing it

        context.refresh_global_settings_context()


def _leave(users: IO[str], server: Server, child: subprocess.Popen[bytes] | None) -> None:
    """Give up our share. The last one waits for the records and, if it started it, sees it off.

    If another command is the last one, the server notices by itself.
    """
    try:
        locks.take(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    recorder.wait_until_written(server.url)
    if child is not None:
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

"""One Prefect server on this machine's loopback for all commands on one artifacts folder.

Prefect by itself would start one server PER PROCESS (15 s, 225 MB each, left behind by
``kill -9``). Here the first command starts one child, later ones find and share it, and the last
to end takes it down (``flows.server.server_child``). The files in ``home``:

    server.turn   locked while a command looks for the server and, if there is none, starts it
    server.users  locked, shared, by every command that uses the server
    server.json   where it listens, which process it is and its secret, for its user alone
    server.log    what it printed
"""

import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from flows.server import recorder
from flows.server.access import entry_link, new_secret
from flows.server.environment import prefect_home
from lensllm.core import locks
from lensllm.core.errors import ConfigError, LensError
from lensllm.core.processes import alive, started
from lensllm.core.sqlite import set_damaged_aside
from lensllm.store.artifacts import Store

_START_SECONDS = 180.0  # 4-8 s on an idle machine; the first start also builds the database
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # how late a server's death may be noticed
_HANDOVER_SECONDS = 10.0  # within which the command that holds the port starts a dead server again
_STARTS = 3  # of a server that is killed while it starts
_QUEUE = 2048  # connections that wait for a server that is being started

log = logging.getLogger("lensllm.server")


class ServerError(LensError):
    """The embedded server could not be started."""


@dataclass(frozen=True)
class Server:
    """A server process: where it listens, which process it is, and what opens it."""

    url: str  # of the API, ending in /api
    pid: int = 0  # 0: the user's own server
    start: float = 0.0  # as processes.started says, tells it from a later one of the same number
    secret: str = field(default="", repr=False)

    @property
    def page(self) -> str:
        """The address of its web page, which asks for the secret."""
        return self.url.removesuffix("/api")

    def entry_link(self) -> str:
        """A link that opens its web page once; each call makes another."""
        return entry_link(self.page, self.secret, self.pid) if self.secret else self.page


@contextmanager
def embedded_server(
    home: Path, port: int | None = None, while_starting: Callable[[], None] | None = None
) -> Iterator[Server]:
    """Within the context there is a Prefect server; it is yielded, and named in the environment.

    A server that the user names in PREFECT_API_URL is used as it is and none is started. A server
    that another command runs for ``home`` is shared, whatever ``port`` says.

    Args:
        home: folder of the server's database and log; created.
        port: of the loopback interface, for a server that has to be started; None: a free one.
        while_starting: called in another thread meanwhile, and waited for.

    Raises:
        ConfigError: the port is in use.
        ServerError: the server did not come up.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        yield Server(named)
        return
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_private(home)
    meanwhile = threading.Thread(target=while_starting or (lambda: None), daemon=True)
    meanwhile.start()
    with (home / "server.users").open("a") as users:
        kept = _KeptServer(home, users, port)
        try:
            # Two threads that import the same packages find them half initialised.
            meanwhile.join()
            with kept, _announced(kept.server):
                yield kept.server
        finally:
            kept.leave()


class _KeptServer:
    """Our share of the server of ``home``; within the context one that dies is started again.

    Prefect asks its server before each cell: a run without it would crawl. What the server was told
    and had not written is lost; the next command marks such task runs as crashed. The command that
    started it keeps the listening socket, so whoever connects meanwhile waits instead of failing,
    and nobody else can take the port.
    """

    def __init__(self, home: Path, users: IO[str], port: int | None) -> None:
        self._home, self._users, self._port = home, users, port
        self._socket: socket.socket | None = None  # where we started the server
        self._child: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lensllm-server", daemon=True)
        self.server = self._find_or_start(None)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if alive(self.server.pid, self.server.start):
                continue
            if self._child is not None:
                self._child.poll()  # else a dead child stays a zombie
            try:
                self.server = self._find_or_start(self.server)
            except (LensError, OSError) as error:
                log.error(
                    "The Prefect server is gone and cannot be started again (%s), so this "
                    "command ends.",
                    error,
                )
                # Not SIGTERM, which Prefect takes and would tell the server of, for minutes.
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _find_or_start(self, dead: Server | None) -> Server:
        """The server of ``home``; whichever of the commands comes first starts it.

        One that died while commands use it, as ``dead``, comes back at its address and with its
        secret, which these know. Its port is with the command that started it, if that lives, and
        so that command is waited for.
        """
        deadline = time.monotonic() + _HANDOVER_SECONDS
        while True:
            with (self._home / "server.turn").open("a") as turn:
                locks.take(turn, fcntl.LOCK_EX)
                locks.take(self._users, fcntl.LOCK_SH)  # waits for a server that is going down
                if server := _running(self._home):
                    return server
                dead = dead or self._used_by_others()
                try:
                    if self._socket is None:
                        self._socket = listener(urlsplit(dead.url).port if dead else self._port)
                    return self._start(dead.secret if dead else new_secret())
                except ConfigError:
                    if dead is None or time.monotonic() > deadline:
                        raise
            if self._over.wait(_LOOK_SECONDS):
                return dead

    def _used_by_others(self) -> Server | None:
        """The server that is noted, if another command uses it; None: it is nobody's any more."""
        try:
            locks.take(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _noted(self._home)
        finally:
            locks.take(self._users, fcntl.LOCK_SH)
        return None

    def _start(self, secret: str) -> Server:
        """Start a server; one that is killed meanwhile is started again."""
        assert self._socket is not None
        for _ in range(_STARTS):
            if self._child is not None:
                log.warning("The Prefect server is gone; another one is started in its place.")
            self._child = _start(self._home, self._socket, secret)
            if server := _running(self._home):
                return server
            if self._child.poll() is None:
                self._child.kill()
            if self._child.wait() > 0:  # by itself, so the next one would, too
                break
        raise ServerError(
            f"The Prefect server did not start; {last_line(self._home / 'server.log')}"
        )

    def leave(self) -> None:
        """Give up our share. The last one waits for the records and, if it started the server, sees
        it off; if another command is the last one, the server notices by itself."""
        try:
            locks.take(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            if self._socket is not None:
                self._socket.close()
        if alive(self.server.pid, self.server.start):
            recorder.wait_until_written(self.server.url, self.server.secret)
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def server_home(store: Store) -> Path:
    """Where the server of an artifacts folder keeps its files: in it; where that has no locks,
    which the server and its database need, in this machine's temporary folder."""
    if store.lockable:
        return prefect_home(store.root)
    folder = Path(tempfile.gettempdir()) / f"lensllm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_private(folder)
    return folder / hashlib.sha256(str(store.root.resolve()).encode()).hexdigest()[:16]


def _require_private(folder: Path) -> None:
    """Raise ``ServerError`` if others could read the server's secret there, or put one there."""
    state = folder.lstat()
    if state.st_uid != os.getuid() or not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o022:
        raise ServerError(
            f"{folder}, where the Prefect server keeps its secret, is not yours alone: remove it, "
            "or take it from others with chmod 700"
        )


def reports_address(artifacts: Path, file: Path) -> str | None:
    """Where the embedded server shows a file of ``artifacts/reports``, on whatever port it is: a
    link from one of its own pages. None when another server is used."""
    try:
        noted = json.loads((prefect_home(artifacts) / "server.json").read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if noted != os.environ.get("PREFECT_API_URL"):
        return None
    return quote(f"/reports/{file.relative_to(artifacts / 'reports').as_posix()}")


def listener(port: int | None) -> socket.socket:
    """A socket that listens at a loopback port, to be handed to the process that will answer there.

    Nobody can take the port in between, and a port in use is known at once.
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
    bound.listen(_QUEUE)  # before the next line, with which somebody else could do so
    # Its connections inherit this: a dead server's do not keep its successor from the port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound


def answers(url: str) -> bool:
    """Whether a GET of ``url`` gives 200. Asked directly: a proxy has no business on loopback."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=2)
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


def _noted(home: Path) -> Server | None:
    """The server noted in ``home``, whether it lives or not."""
    try:
        server = Server(**json.loads((home / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return server if server.secret else None


def _running(home: Path) -> Server | None:
    """The server noted in ``home``, once it answers; None if there is none or it died."""
    server = _noted(home)
    if server and wait_until_up(f"{server.url}/health", server.pid, server.start):
        return server
    return None


def _start(home: Path, bound: socket.socket, secret: str) -> subprocess.Popen[bytes]:
    """Start the child and note it at once: whoever comes next, even if we die now, finds it."""
    host, port = bound.getsockname()
    set_damaged_aside(home / "prefect.db")
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-P",  # no file beside the configuration is taken for one of ours
                "-m",
                "flows.server.server_child",
                str(bound.fileno()),
                home / "server.users",
            ],
            pass_fds=[bound.fileno()],
            env=_environment(home, host, port, secret),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the commands that use the server
        )
    server = Server(f"http://{host}:{port}/api", child.pid, started(child.pid) or 0.0, secret)
    handle, draft = tempfile.mkstemp(dir=home, prefix="server.json.")  # new, and of mode 600
    with os.fdopen(handle, "w") as note:
        note.write(json.dumps(asdict(server)))
    Path(draft).replace(home / "server.json")
    return child


def _environment(home: Path, host: str, port: int, secret: str) -> dict[str, str]:
    """The child's environment: ours, and what must be so for this server."""
    return (
        recorder.SETTINGS
        | os.environ
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_API_HOST": host,
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_API_AUTH_STRING": secret,
            "PREFECT_API_AUTH_STRING": secret,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{host}:{port}",
            # For the web page, by whatever name of loopback it was opened.
            "PREFECT_UI_API_URL": "/api",
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
def _announced(server: Server) -> Iterator[None]:
    """Name the server and its secret in the environment, for Prefect in this process and in those
    that we start."""
    names = {"PREFECT_API_URL": server.url, "PREFECT_API_AUTH_STRING": server.secret}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    _reread_settings()
    try:
        yield
    finally:
        recorder.send_everything()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _reread_settings()


def _reread_settings() -> None:
    """Prefect reads the environment at its import; if that has begun, have it read once more."""
    if "prefect.context" in sys.modules:
        from prefect import context  # waits for another thread that is importing it

        context.refresh_global_settings_context()

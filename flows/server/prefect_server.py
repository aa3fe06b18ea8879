"""One Prefect server on this machine's loopback for all commands on one artifacts folder.

Prefect by itself would start one server PER PROCESS (15 s, 225 MB each, left behind by
``kill -9``). Here the first command starts one child, later ones find and share it, and the last
to end takes it down (``flows.server.child``). The files in ``home``:

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
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from flows.server.access import entry_link, new_secret
from flows.server.environment import prefect_home
from flows.server.loopback import (
    RECORDER_SETTINGS,
    WRITE_TIMEOUT_SECONDS,
    last_line,
    listener,
    wait_until_up,
    wait_until_written,
)
from lensllm.core import locks
from lensllm.core.errors import ConfigError, LensError
from lensllm.core.processes import alive, started
from lensllm.core.sqlite import set_damaged_aside
from lensllm.store.artifacts import Store

_STOP_SECONDS = 15.0
_WATCH_INTERVAL_SECONDS = 1.0  # how late a server's death may be noticed
_HANDOVER_SECONDS = 10.0  # within which the command that holds the port starts a dead server again
_MOST_STARTS = 3  # of a server that is killed while it starts

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
        share = _ServerShare(home, users, port)
        try:
            # Two threads that import the same packages find them half initialised.
            meanwhile.join()
            with share, _in_environment(share.server):
                yield share.server
        finally:
            share.release()


class _ServerShare:
    """This command's share of the server of ``home``; in the context a dead server is restarted.

    Prefect asks its server before each cell: a run without it would crawl. Events that the dead
    server had not written are lost; the next command marks such task runs as crashed. The command
    that started the server keeps the listening socket: clients that connect meanwhile wait instead
    of failing, and no other process can take the port.
    """

    def __init__(self, home: Path, users: IO[str], port: int | None) -> None:
        self._home, self._users, self._port = home, users, port
        self._socket: socket.socket | None = None  # of a server that this command started
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
        while not self._over.wait(_WATCH_INTERVAL_SECONDS):
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
        """Return the server of ``home``; the first of the commands that ask starts it.

        A server that died while commands use it, as ``dead``, comes back at its address and with
        its secret, which these commands hold. Its port belongs to the command that started it, so
        that command is waited for while it lives.
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
            if self._over.wait(_WATCH_INTERVAL_SECONDS):
                return dead

    def _used_by_others(self) -> Server | None:
        """The server that is noted, if another command uses it; else None."""
        try:
            locks.take(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _noted(self._home)
        finally:
            locks.take(self._users, fcntl.LOCK_SH)
        return None

    def _start(self, secret: str) -> Server:
        """Start a server, again if it is killed meanwhile. Raises ``ServerError``."""
        assert self._socket is not None
        for _ in range(_MOST_STARTS):
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

    def release(self) -> None:
        """Give up the share. The last command waits until all is written and, if it started the
        server, ends it; a server of another command notices by itself that it is unused."""
        try:
            locks.take(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            if self._socket is not None:
                self._socket.close()
        if alive(self.server.pid, self.server.start):
            wait_until_written(self.server.url, self.server.secret)
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def server_home(store: Store) -> Path:
    """The folder of an artifacts folder's server: in it, or in this machine's temporary folder if
    it has no locks, which the server and its database need."""
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
    """A link for pages of the embedded server to a file of ``artifacts/reports``, without host and
    port. None if another server is used."""
    try:
        noted = json.loads((prefect_home(artifacts) / "server.json").read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if noted != os.environ.get("PREFECT_API_URL"):
        return None
    return quote(f"/reports/{file.relative_to(artifacts / 'reports').as_posix()}")


def _noted(home: Path) -> Server | None:
    """The server noted in ``home``, alive or dead; None without a readable note."""
    try:
        server = Server(**json.loads((home / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return server if server.secret else None


def _running(home: Path) -> Server | None:
    """The server noted in ``home`` once it answers; None without one, or if it is dead."""
    server = _noted(home)
    if server and wait_until_up(f"{server.url}/health", server.pid, server.start):
        return server
    return None


def _start(home: Path, bound: socket.socket, secret: str) -> subprocess.Popen[bytes]:
    """Start the child and note it at once: the next command finds it, even if this one dies now."""
    host, port = bound.getsockname()
    set_damaged_aside(home / "prefect.db")
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [
                sys.executable,
                "-P",  # the user's folder may hold a ``flows`` of its own
                "-m",
                "flows.server.child",
                "prefect",
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
    """The child's environment: that of this process, and the settings of this server."""
    return (
        RECORDER_SETTINGS
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


@contextmanager
def _in_environment(server: Server) -> Iterator[None]:
    """Name the server and its secret in the environment, for Prefect in this process and in its
    children."""
    names = {"PREFECT_API_URL": server.url, "PREFECT_API_AUTH_STRING": server.secret}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    _reread_settings()
    try:
        yield
    finally:
        _send_everything()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _reread_settings()


def _reread_settings() -> None:
    """Have Prefect read the environment once more if its import, which does so, has begun."""
    if "prefect.context" in sys.modules:
        from prefect import context  # waits for another thread that is importing it

        context.refresh_global_settings_context()


def _send_everything() -> None:
    """Send the events and log lines that Prefect, if it was used at all, still holds here."""
    for module, name in (
        ("prefect.events.worker", "EventsWorker"),
        ("prefect.logging.handlers", "APILogWorker"),
    ):
        if module in sys.modules:
            logging.getLogger(name).setLevel(logging.ERROR)  # it would count down on the console
            getattr(sys.modules[module], name).drain_all(timeout=WRITE_TIMEOUT_SECONDS)

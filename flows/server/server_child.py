"""The Prefect server's own process: ``python -m flows.server.server_child SOCKET_FD USERS_FILE``.

It serves as long as any command holds the shared lock on USERS_FILE. The kernel drops a process's
locks however it ends, so when the last command is gone, be it by ``kill -9``, the server goes too;
and a command that finishes first does not take the server from one that still runs.
"""

import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from flows.server.access import AccessControl
from flows.server.recorder import wait_until_written

_LOOK_SECONDS = 0.3
_GRACE_SECONDS = 10.0  # for open requests and the background services; SQLite needs none


def main() -> None:
    """Serve until the last user is gone, or SIGTERM."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    users = Path(sys.argv[2])
    host, port = listener.getsockname()
    secret = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
    config = uvicorn.Config(
        partial(_app, users.parent.parent / "reports", port, secret),
        factory=True,
        log_level="warning",
        proxy_headers=False,  # nobody stands between
        timeout_graceful_shutdown=2,  # web pages keep sockets open for ever
    )
    server = uvicorn.Server(config)

    def stop() -> None:
        wait_until_written(f"http://{host}:{port}/api", secret)
        server.should_exit = True

    watch = threading.Thread(target=_when_unused, args=(users, stop), daemon=True)
    watch.start()
    server.run(sockets=[listener])


def _app(reports: Path, port: int, secret: str) -> AccessControl:
    """Prefect's pages and API, and the reports that its artifacts link to.

    A report is shown as a page of no origin: were one to carry a script of a stranger's, it could
    not talk to the API beside it.
    """
    from prefect.server.api.server import create_app

    _wait_for_writers()

    class Reports(StaticFiles):
        def file_response(self, *args: Any, **kwargs: Any) -> Response:
            response = super().file_response(*args, **kwargs)
            response.headers["Content-Security-Policy"] = "sandbox allow-popups"
            return response

    app = create_app()
    app.router.routes.insert(0, Mount("/reports", Reports(directory=reports, check_dir=False)))
    # Prefect's WebSockets ask for the secret themselves: its clients send it as a message.
    return AccessControl(app, port, secret, open_paths={"/api/health"}, sockets="/api/")


def _wait_for_writers() -> None:
    """Have every transaction of Prefect's SQLite database begin with the lock for writing.

    By default it is taken at the first write; a request that has read before and finds that
    another one wrote meanwhile is refused at once, however long SQLite may wait for a lock, and
    the client sleeps two seconds before it asks again.
    """
    from prefect.server.database import dependencies
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.settings import get_current_settings

    class Patient(AioSqliteConfiguration):
        def begin_transaction(self, session: Any, with_for_update: bool = False) -> Any:
            return super().begin_transaction(session, with_for_update=True)

    url = get_current_settings().server.database.connection_url
    if url and url.get_secret_value().startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = Patient(url.get_secret_value())


def _when_unused(users: Path, stop: Callable[[], None]) -> None:
    """Call ``stop`` once nobody shares the lock, and keep it so that nobody can join any more."""
    with users.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)
        stop()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)


if __name__ == "__main__":
    main()

"""The two web servers' own processes, each on a socket that its parent has opened.

    python -P -m flows.server.child prefect SOCKET_FD USERS_FILE
    python -P -m flows.server.child mlflow SOCKET_FD PARENT DATABASE

Prefect's server runs as long as any command holds the shared lock on USERS_FILE. The kernel drops a
process's locks however it ends, so the server also goes when the last command ends by ``kill -9``,
and a command that finishes first does not take the server from one that still runs.

MLflow's page runs as long as process PARENT. ``mlflow ui`` would be a process that starts four
others, which outlive it when it is killed.
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

from flows.server.access import MLFLOW_SECRET, AccessControl
from flows.server.loopback import wait_until_written
from lensllm.core.processes import die_with_parent

_LOCK_INTERVAL_SECONDS = 0.3
_GRACE_SECONDS = 10.0  # for open requests and the background services; SQLite needs none


def serve_prefect(listener: socket.socket, users: Path) -> None:
    """Serve Prefect's API and pages until no command holds the lock on ``users``, or SIGTERM."""
    host, port = listener.getsockname()
    secret = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
    reports = users.parent.parent / "reports"
    server = _server(partial(_prefect, reports, port, secret), factory=True)

    def stop() -> None:
        wait_until_written(f"http://{host}:{port}/api", secret)
        server.should_exit = True

    threading.Thread(target=_when_unused, args=(users, stop), daemon=True).start()
    server.run(sockets=[listener])


def serve_mlflow(listener: socket.socket, parent: int, database: Path) -> None:
    """Serve the runs in the SQLite file ``database`` until SIGTERM or the end of ``parent``."""
    die_with_parent(parent)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a further process, of no use here

    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    figures = (database.parent / "mlflow-artifacts").as_uri()
    initialize_backend_stores(f"sqlite:///{database}", f"sqlite:///{database}", figures)
    secret, port = os.environ.pop(MLFLOW_SECRET), listener.getsockname()[1]
    page = AccessControl(app, port, secret, open_paths={"/health"})
    _server(page).run(sockets=[listener])


def _server(app: Any, **settings: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            proxy_headers=False,  # there is no proxy in between
            timeout_graceful_shutdown=2,  # web pages keep sockets open for ever
            **settings,
        )
    )


def _prefect(reports: Path, port: int, secret: str) -> AccessControl:
    """Prefect's pages and API, and the reports that its artifacts link to.

    A report is shown as a page without an origin: a stranger's script in it could not talk to the
    API on the same port.
    """
    from prefect.server.api.server import create_app

    _lock_transactions_early()

    class Reports(StaticFiles):
        def file_response(self, *args: Any, **kwargs: Any) -> Response:
            response = super().file_response(*args, **kwargs)
            response.headers["Content-Security-Policy"] = "sandbox allow-popups"
            return response

    app = create_app()
    app.router.routes.insert(0, Mount("/reports", Reports(directory=reports, check_dir=False)))
    # Prefect's WebSockets ask for the secret themselves: its clients send it as a message.
    return AccessControl(app, port, secret, open_paths={"/api/health"}, sockets="/api/")


def _lock_transactions_early() -> None:
    """Have every transaction of Prefect's SQLite database begin with the lock for writing.

    By default a transaction takes the lock at its first write. SQLite refuses that at once, however
    long it may wait for a lock, if the transaction has read before and another one has written
    meanwhile, and Prefect's client sleeps two seconds before it asks again.
    """
    from prefect.server.database import dependencies
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.settings import get_current_settings

    class EarlyLock(AioSqliteConfiguration):
        def begin_transaction(self, session: Any, with_for_update: bool = False) -> Any:
            return super().begin_transaction(session, with_for_update=True)

    url = get_current_settings().server.database.connection_url
    if url and url.get_secret_value().startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = EarlyLock(url.get_secret_value())


def _when_unused(users: Path, stop: Callable[[], None]) -> None:
    """Take the lock once no command shares it, so that none can join any more, and ``stop``."""
    with users.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_INTERVAL_SECONDS)
        stop()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)


def main() -> None:
    """Serve as the arguments in the module's text say."""
    which, descriptor, *rest = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    if which == "prefect":
        serve_prefect(listener, Path(rest[0]))
    else:
        serve_mlflow(listener, int(rest[0]), Path(rest[1]))


if __name__ == "__main__":
    main()

"""``lensllm ui``: Prefect's and MLflow's pages on this machine's loopback until Ctrl-C."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.server.access import MLFLOW_SECRET, entry_link, new_secret
from flows.server.environment import prefect_home
from flows.server.loopback import last_line, listener, wait_until_up
from flows.server.prefect_server import ServerError, embedded_server
from lensllm.core.processes import started


def serve(artifacts: Path, prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
    """Serve what ``artifacts`` holds, print the addresses and return on Ctrl-C.

    Args:
        prefect_port, mlflow_port: of the loopback interface; None: a free one. A Prefect server
            that another command already runs for ``artifacts`` is shown instead of a new one.

    Raises:
        ConfigError: a port is in use.
        ServerError: a server did not come up, or ended by itself.
    """
    artifacts = artifacts.resolve()
    secret = new_secret()
    try:
        with (
            _mlflow(artifacts, mlflow_port, secret) as (page, child),
            embedded_server(prefect_home(artifacts), prefect_port) as prefect,
        ):
            log = artifacts / "mlflow.log"
            if not wait_until_up(f"{page}/health", child.pid, started(child.pid) or 0.0):
                raise ServerError(f"MLflow's page did not start; {last_line(log)}")
            print(
                f"Prefect: {prefect.entry_link()}\nMLflow:  {entry_link(page, secret, child.pid)}\n"
                "Each link opens its page in one browser, once. Ctrl-C ends both.",
                flush=True,
            )
            while child.poll() is None:
                time.sleep(0.5)
            raise ServerError(f"MLflow's page ended by itself; {last_line(log)}")
    except KeyboardInterrupt:
        return


@contextmanager
def _mlflow(
    artifacts: Path, port: int | None, secret: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start MLflow's page as a child; yield its address and process before it is up."""
    bound = listener(port)
    host, port = bound.getsockname()
    arguments = (str(bound.fileno()), str(os.getpid()), artifacts / "mlflow.db")
    with bound, (artifacts / "mlflow.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.server.child", "mlflow", *arguments],
            env={**os.environ, MLFLOW_SECRET: secret},
            pass_fds=[bound.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours
        )
    try:
        yield f"http://{host}:{port}", child
    finally:
        child.terminate()
        child.wait()

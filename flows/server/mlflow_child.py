"""MLflow's web page in one process.

Started as ``python -P -m flows.server.mlflow_child SOCKET_FD PARENT DATABASE``.

``mlflow ui`` would be a process that starts four others, which outlive it when it is killed.
"""

import os
import socket
import sys
from pathlib import Path

from lensllm.core.processes import die_with_parent

SECRET = "LENSLLM_MLFLOW_SECRET"  # the environment variable that holds it


def main() -> None:
    """Serve the runs of the SQLite file DATABASE until SIGTERM or the end of process PARENT."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    database = Path(sys.argv[3])
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a further process, of no use here

    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    from flows.server.access import AccessControl

    figures = (database.parent / "mlflow-artifacts").as_uri()
    initialize_backend_stores(f"sqlite:///{database}", f"sqlite:///{database}", figures)
    secret, port = os.environ.pop(SECRET), listener.getsockname()[1]
    config = uvicorn.Config(
        AccessControl(app, port, secret, open_paths={"/health"}),
        log_level="warning",
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""Settings of Prefect, MLflow and the model libraries, for the environment before their import.

They read the environment once, at import: call ``prepare`` before the first ``import prefect`` or
``import mlflow``. Variables that the user has set stay. Importing this module imports none of them.
"""

import os
import stat
from pathlib import Path


def prefect_home(artifacts: Path) -> Path:
    """The folder of this user's Prefect server.

    In an artifacts folder that a group shares each user has a server of their own, because a server
    acts as the user who started it.
    """
    home = artifacts / "prefect"
    if home.exists() and home.stat().st_uid != os.getuid():
        return artifacts / f"prefect-{os.getuid()}"
    return home


def settings(artifacts: Path) -> dict[str, str]:
    """The settings for runs that keep their outputs under ``artifacts``, by variable name."""
    return {
        # Children started as modules, Prefect's too, do not import from the user's folder.
        "PYTHONSAFEPATH": "1",
        # Prefect: its database and logs stand beside the outputs, and no process but the one
        # server we start ever becomes a server (each would cost 15 s and 225 MB).
        "PREFECT_HOME": str(prefect_home(artifacts.resolve())),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # Limits kept in memory leak when their holder is killed; those in files expire.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        # Limits against hanging alone, for a busy machine; a request is tried six times.
        "PREFECT_API_REQUEST_TIMEOUT": "300",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "300",
        # Our artefacts are the cache; Prefect's has neither checksum nor lock.
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        # The console is ours; states still reach the web page, which does not read logs for them.
        "PREFECT_LOGGING_LEVEL": "WARNING",
        # While a server is away each event that could not be sent would be logged, a page long.
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # With a tracking server it would print addresses into --json.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # A tracking server that does not answer costs seconds, not the default's minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        # No telemetry.
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # The model libraries: no threads that a fork would break, no progress bars across ours.
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def restrict(artifacts: Path) -> None:
    """Keep what this process and its children write to this user, or to the group of ``artifacts``
    if the group may write there, which is how people share a folder."""
    shared = artifacts.is_dir() and artifacts.stat().st_mode & stat.S_IWGRP
    os.umask(0o007 if shared else 0o077)


def prepare(artifacts: Path) -> None:
    """Put ``settings`` into this process's environment where the user has set nothing."""
    for name, value in settings(artifacts).items():
        os.environ.setdefault(name, value)

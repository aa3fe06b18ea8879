"""Scheduled pipelines as Prefect deployments: one for each, all of its parameters in it.

``lensllm deploy`` writes ``artifacts/deploy/prefect.yaml`` from pipelines.yaml and has Prefect's
own command register what it says. ``flows.schedules.serve`` registers the same deployments with a
server that lives as long as it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cronsim import CronSim

from flows.server import environment
from lensllm.config import configfile
from lensllm.config.sections import Schedule
from lensllm.core.errors import ConfigError, LensError
from lensllm.store.artifacts import Store

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

FLOW = "scheduled"
ENTRYPOINT = f"flows.schedules.scheduled.{FLOW}"
TAG = "lensllm"
_COLLISIONS = {"wait": "ENQUEUE", "cancel": "CANCEL_NEW"}  # in Prefect's words


class DeployError(LensError):
    """The Prefect server does not take a deployment."""


@dataclass(frozen=True)
class Deployment:
    """A pipeline and its schedule."""

    pipeline: str
    description: str
    schedule: Schedule
    parameters: dict[str, str]  # of flows.schedules.scheduled.scheduled

    @property
    def when(self) -> str:
        """The schedule in words: ``At 02:00 every day (Europe/Berlin)``."""
        if not self.schedule.cron:
            return "by hand"
        when = CronSim(self.schedule.cron, datetime.now()).explain()
        return f"{when} ({self.schedule.timezone})"

    @property
    def concurrency(self) -> dict[str, Any]:
        """Prefect's limit: one run at a time, and what happens to the next."""
        return {"limit": 1, "collision_strategy": _COLLISIONS[self.schedule.overlap]}


def deployments(file: Path, store: Store, names: Sequence[str] = ()) -> list[Deployment]:
    """Deployments of ``names``, or of every pipeline of ``file`` that has a schedule.

    Raises ``ConfigError`` if a pipeline has an error, or none has a schedule.
    """
    known = configfile.names(file)
    loaded = {name: configfile.load(file, name) for name in names or known}
    found = [
        Deployment(
            name,
            pipeline.description,
            pipeline.schedule,
            {"pipeline": name, "file": str(file.resolve()), "artifacts": str(store.root.resolve())},
        )
        for name, pipeline in loaded.items()
        if names or pipeline.schedule.cron
    ]
    if not found:
        raise ConfigError(
            f"{file}: no pipeline has a schedule; give one 'schedule: {{cron: \"0 2 * * *\"}}', "
            "or name pipelines to deploy without"
        )
    return found


def altered_fields(there: DeploymentResponse, parameters: Mapping[str, str]) -> list[str]:
    """Fields of a server's deployment that decide which code it runs, and on what, and differ from
    those that ``flows.schedules.serve`` registered with ``parameters``."""
    expected: dict[str, Any] = {
        # the name that Prefect notes for a flow object
        "entrypoint": "flows.schedules.scheduled.rerun",
        "path": None,
        "pull_steps": None,
        "job_variables": None,
        "storage_document_id": None,
        "infrastructure_document_id": None,
        "work_pool_name": None,
        "parameters": dict(parameters),
    }
    return [name for name, value in expected.items() if (getattr(there, name) or None) != value]


def prefect_yaml(found: Sequence[Deployment], pool: str, store: Store) -> str:
    """The content of the file that ``prefect deploy --all`` reads.

    Nothing is pulled: parameters and working directory are folders that the worker's machine has.
    """
    settings = environment.settings(store.root)
    ours = {"PREFECT_HOME"} | {name for name in settings if name.startswith("PREFECT_SERVER_")}
    variables = {
        "working_dir": str(Path.cwd()),
        "env": {name: value for name, value in settings.items() if name not in ours},
    }
    entries = [
        {
            "name": d.pipeline,
            "description": d.description,
            "entrypoint": ENTRYPOINT,
            "parameters": d.parameters,
            "tags": [TAG],
            "schedules": [{"cron": d.schedule.cron, "timezone": d.schedule.timezone}]
            if d.schedule.cron
            else [],
            "concurrency_limit": d.concurrency,
            "work_pool": {"name": pool, "job_variables": variables},
        }
        for d in found
    ]
    return yaml.safe_dump({"pull": [], "deployments": entries}, sort_keys=False, allow_unicode=True)


def write(found: Sequence[Deployment], pool: str, store: Store) -> Path:
    """Write ``prefect_yaml`` into the artifacts folder; return its path."""
    path = store.root / "deploy" / "prefect.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "# Written by lensllm deploy from pipelines.yaml: edit that instead.\n"
        + prefect_yaml(found, pool, store),
        encoding="utf-8",
    )
    return path


def require_server() -> None:
    """Raise ``ConfigError`` if the user names no server: an embedded one would not stay."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            "PREFECT_API_URL names no Prefect server to deploy to, e.g. "
            "http://server.example:4200/api; on one machine lensllm serve needs none"
        )


def register(path: Path, pool: str) -> None:
    """Register the deployments of ``path`` with Prefect, and make their work pool if it is missing.

    Raises ``DeployError`` if the server refuses or does not answer.
    """
    _ensure_pool(pool)
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        [*command, "--prefect-file", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = next((li for li in reversed(done.stdout.splitlines()) if li.strip()), "nothing")
        raise DeployError(f"Prefect did not take {path}: {last.strip()}")


def _ensure_pool(pool: str) -> None:
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(
                WorkPoolCreate(name=pool, type="process", base_job_template=template)
            )
            return
        except (HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DeployError(
                f"the Prefect server at {client.api_url} does not answer: {reason}"
            ) from None
    if kind != "process":
        raise DeployError(
            f"work pool '{pool}' is of type {kind}; workers of type process run our deployments: "
            "name another with --pool"
        )


def remove_others(keep: Sequence[Deployment]) -> list[str]:
    """Delete the deployments of the same file and folder that are not in ``keep``; return their
    names. A pipeline without a schedule would go on running otherwise."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        FlowFilter,
        FlowFilterName,
    )

    places = {(d.parameters["file"], d.parameters["artifacts"]) for d in keep}
    wanted = {d.pipeline for d in keep}
    with get_client(sync_client=True) as client:
        there = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])),
        )
        gone = [
            d
            for d in there
            if d.name not in wanted
            and (d.parameters.get("file"), d.parameters.get("artifacts")) in places
        ]
        for deployment in gone:
            client.delete_deployment(deployment.id)
    return [deployment.name for deployment in gone]

"""A whole pipeline from a script or a notebook: ``lensllm.run`` is the function of this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core.errors import ConfigError
from lensllm.report.reading import publish, read_report
from lensllm.report.result import Result
from lensllm.store.artifacts import Store
from tasks.execution.in_process import run_in_process


def run(
    pipeline: str | Mapping[str, Any],
    *,
    file: str | Path = "pipelines.yaml",
    overrides: Sequence[str] = (),
    name: str = "script",
    artifacts: str | Path = "artifacts",
    prefect: bool = False,
) -> Result:
    """Run a pipeline to its ranking and report: sample, fine-tune, measure, fit and rank.

    Finished artefacts in the folder are reused, whether a script or the command line made them.
    The report is copied to ``<artifacts>/reports/<name of the pipeline>/``.

    Args:
        pipeline: the name of a pipeline in ``file``, or its settings as a dictionary, with the keys
            of docs/configuration.md.
        file: the configuration file in which a name is looked up.
        overrides: settings as ``KEY.PATH=VALUE``, as after ``--set`` on the command line.
        name: the report's name for a pipeline that is a dictionary.
        artifacts: folder of all results.
        prefect: run the flow of the command line, with its workers, server and MLflow. Otherwise
            artefacts are made in this process, one after the other.

    Returns:
        The tables of the run, and the answer in words as ``verdict``.

    Raises:
        ConfigError: a setting is wrong.
        LensError: nothing could be ranked; the message names the first failure.

    >>> run({"candidates": ["models/none"], "sweep": {"min": 0}})
    Traceback (most recent call last):
    ...
    lensllm.core.errors.ConfigError: pipeline 'script': ...
    """
    if isinstance(pipeline, str):
        name, config = pipeline, configfile.load(Path(file), pipeline, overrides)
    elif prefect:
        raise ConfigError("prefect=True: give the name of a pipeline in a configuration file")
    else:
        config = configfile.from_settings(pipeline, f"pipeline '{name}'", overrides)
    store = Store(Path(artifacts))
    store.prepare()
    if prefect:
        return _run_flow(name, Path(file), overrides, config, store)
    with store.using(f"a run of {name}"):
        ranking = run_in_process(name, config, store)
        publish(store, name, ranking.ref("report"), ranking.ref("ranking"))
        return read_report(store, ranking.ref("report"))


def _run_flow(
    name: str, file: Path, overrides: Sequence[str], config: Pipeline, store: Store
) -> Result:
    """Run the flow of ``lensllm run``; progress goes to standard error."""
    from flows.running.terminal import SafeConsole
    from flows.server import environment

    environment.prepare(store.root)  # before Prefect and MLflow are imported, which read it then
    from flows.running.launch import launch
    from flows.running.slots import slots_of

    arguments = (name, str(file.absolute()), str(store.root), list(overrides))
    console = SafeConsole(stderr=True, highlight=False)
    outcome, _ = launch("rank", arguments, slots_of(config.engine)[0], store, console)
    result: Result = outcome.result
    return result

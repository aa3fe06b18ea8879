"""MLflow shows the store: a parent run per pipeline run, a child per cell, kernel and curvature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lensllm.config.sections import Tracking
from lensllm.store.artifacts import Ref, Store
from tasks.base.step import Step
from tasks.execution.tracking import Row, Tracker
from tasks.stages import STAGES

# Columns of a stage's table that describe it; the other numbers are its metrics.
_DESCRIBES = {"candidate", "size", "repeat", "precision", "attention", "versions", "method"}
_DESCRIBES |= {"passes", "reason"}


class MlflowProjection:
    """Observer that logs each finished artefact of a tracked stage, once.

    A stage is tracked when its ``mlflow`` gives one flat row of an artefact. ``settings`` identify
    the run, and are its parameters in MLflow.
    """

    def __init__(
        self, name: str, tracking: Tracking, settings: Mapping[str, Any], store: Store
    ) -> None:
        self._store = store
        self._tracker: Tracker | None = None
        if tracking.enabled:
            uri = tracking.uri or f"sqlite:///{store.root / 'mlflow.db'}"
            key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
            self._tracker = Tracker(uri, f"lensllm/{name}", key, name, _flat(settings))

    def __enter__(self) -> MlflowProjection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker:
            self._tracker.close()

    @property
    def page(self) -> str | None:
        """The tracking server's page of the parent run; None without one."""
        return self._tracker.page() if self._tracker else None

    def planned(self, steps: Sequence[Step]) -> None:
        """MLflow holds results only."""

    def changed(self, step: Step, state: str, seconds: float = 0.0, text: str = "") -> None:
        tracked = STAGES[step.stage].mlflow
        if self._tracker and tracked and state in ("done", "cached"):
            read = partial(_row, tracked, self._store, step)
            self._tracker.child(step.ref.key, step.label, read)

    def log_ranking(
        self, ranking: pd.DataFrame, scores: pd.DataFrame, files: Sequence[Path] = ()
    ) -> None:
        """Log rows of ranking/predictions and ranking/scores, and ``files``, in the parent run."""
        if not self._tracker:
            return
        metrics = {
            f"{column}/{row['candidate']}": float(row[column])
            for row in ranking.to_dict("records")
            for column in ("predicted", "p_best", "measured")
        }
        for row in scores.to_dict("records"):
            metrics |= {
                f"{score}/{row['predictor']}": float(value)
                for score, value in row.items()
                if score not in ("budget", "predictor")
            }
        self._tracker.finish(metrics, files)


def _row(tracked: Callable[[Store, Ref], dict[str, Any]], store: Store, step: Step) -> Row:
    """An artefact as MLflow's parameters and metrics."""
    row = tracked(store, step.ref)
    return (
        {name: value for name, value in row.items() if name in _DESCRIBES},
        {name: float(v) for name, v in row.items() if name not in _DESCRIBES},
        int(row.get("size", 0)),
    )


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.key`` parameters."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat

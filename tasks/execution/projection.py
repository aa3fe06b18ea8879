"""MLflow shows what the store holds: a parent run per pipeline run, a child per
cell, kernel and curvature."""

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
_DESCRIBES = {"candidate", "size", "seed", "precision", "attention", "versions", "method", "passes",
              "reason"}  # fmt: skip


class MlflowProjection:
    """Observer that logs each finished artefact of a tracked stage, once.

    A stage is tracked when its ``mlflow`` gives one flat row of an artefact.
    """

    def __init__(
        self, name: str, tracking: Tracking, settings: Mapping[str, Any], store: Store
    ) -> None:
        """``settings`` are what the run is told apart by, and its parameters in MLflow."""
        self._tracking = tracking
        self._settings = settings
        self._store = store
        self._name = name
        self._tracker: Tracker | None = None
        self._parent = ""

    def __enter__(self) -> MlflowProjection:
        if self._tracking.enabled:
            uri = self._tracking.uri or f"sqlite:///{self._store.root / 'mlflow.db'}"
            text = json.dumps(self._settings)
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._tracker = Tracker(uri, f"lensllm/{self._name}")
            self._parent = self._tracker.parent(key, self._name, _flat(self._settings))
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker:
            self._tracker.close()

    @property
    def page(self) -> str | None:
        """Where a tracking server shows the parent run; None without one."""
        return self._tracker.page(self._parent) if self._tracker else None

    def planned(self, steps: Sequence[Step]) -> None:
        """Nothing to log yet."""

    def started(self, step: Step) -> None:
        """Nothing to log yet."""

    def failed(self, step: Step, reason: str) -> None:
        """Failures are shown by Prefect; MLflow holds results."""

    def skipped(self, step: Step) -> None:
        """Nothing to log."""

    def finished(self, step: Step, seconds: float, *, cached: bool, note: str = "") -> None:
        tracked = STAGES[step.stage].mlflow
        if self._tracker and tracked:
            read = partial(_row, tracked, self._store, step)
            self._tracker.child_of_store(self._parent, step.ref.key, step.label, read)

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
        self._tracker.finish(self._parent, metrics, files)


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

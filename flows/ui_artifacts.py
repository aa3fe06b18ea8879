"""What a run shows in Prefect's UI besides its task runs: a progress bar and the ranking."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pandas as pd
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from lensllm.store import Ref, Store
from tasks import decision
from tasks.stage import Step

# Each update is a request to the server; a person does not look more often than this.
_SECONDS_BETWEEN_UPDATES = 2.0


class ProgressArtifact:
    """Observer that keeps one progress bar of the flow run up to date."""

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._lock = threading.Lock()
        self._total = self._settled = 0
        self._updated = 0.0

    def planned(self, steps: Sequence[Step]) -> None:
        self._total += len(steps)
        if self._id is None:
            created = create_progress_artifact(0.0, key="progress", description="artefacts made")
            self._id = created if isinstance(created, UUID) else None

    def started(self, step: Step) -> None:
        """Nothing to show: the task run says it."""

    def finished(self, step: Step, seconds: float, *, cached: bool, remark: str = "") -> None:
        self._advance()

    def failed(self, step: Step, reason: str) -> None:
        self._advance()

    def skipped(self, step: Step) -> None:
        self._advance()

    def _advance(self) -> None:
        with self._lock:
            self._settled += 1
            now = time.monotonic()
            last = self._settled == self._total
            if self._id and (last or now - self._updated > _SECONDS_BETWEEN_UPDATES):
                self._updated = now
                update_progress_artifact(self._id, progress=100.0 * self._settled / self._total)


def plain(text: str) -> str:
    """``text`` for a page that renders Markdown with HTML: names in it stay what they are."""
    return html.escape(text)


def ranking_rows(predictions: pd.DataFrame, predictor: str) -> list[dict[str, Any]]:
    """The answer's rows for a table a person reads."""
    rows = predictions[predictions["predictor"] == predictor].sort_values("rank")
    return [
        {
            "rank": row.rank_,
            "candidate": row.candidate,
            "predicted": f"{row.predicted:.4f}",
            "80 % interval": f"{row.low:.4f} – {row.high:.4f}",
            "P(best)": f"{row.p_best:.0%}",
            "expected regret": f"{row.expected_regret:.4f}",
            "measured": "" if pd.isna(row.measured) else f"{row.measured:.4f}",
            "measured rank": row.measured_rank or "",
        }
        for row in rows.rename(columns={"rank": "rank_"}).itertuples()
    ]


def show_decisions(store: Store, decisions: Sequence[Ref], *, over: bool) -> None:
    """Who was dropped when and why, so far, as a table of the flow run."""
    rows = decision.read(store, decisions)
    stop = rows["stop"].iloc[-1]
    ending = "The others go up to the budget." if over else "The sweep goes on with the others."
    create_table_artifact(
        key="sweep",
        table=[
            {
                "candidate": row.candidate,
                "dropped after D": row.budget,
                "why": row.dropped,
                "predicted": f"{row.predicted:.4f}",
                "P(best)": f"{row.p_best:.1%}",
            }
            for row in rows[rows["dropped"] != ""].itertuples()
        ],
        description=f"Stopped: {stop}." if stop else ending,
    )

"""Artifacts in Prefect's UI beside the task runs: a progress bar, decisions and the ranking."""

from __future__ import annotations

import html
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pandas as pd
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.running.terminal import Tally, TallyObserver, clock
from flows.server.prefect_server import reports_address
from lensllm.report.result import Result
from lensllm.store.artifacts import Ref, Store
from tasks.base.step import Step
from tasks.stages import decision

# Each update is a request to the server; a person does not look more often than this.
_SECONDS_BETWEEN_UPDATES = 2.0
_CELL_STATES = ("done", "cached", "running", "failed", "skipped", "to come")


class ProgressArtifact(TallyObserver):
    """Observer that shows a flow run's progress: a bar, and the cells of each candidate."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._id: UUID | None = None
        self._cells: dict[Ref, tuple[str, str]] = {}  # candidate and state
        self._updated = 0.0

    def planned(self, steps: Sequence[Step]) -> None:
        super().planned(steps)
        with self._lock:
            for step in steps:
                if step.stage == "finetune":
                    self._cells[step.ref] = (step.hints["candidate"], "to come")
            if self._id is None:
                created = create_progress_artifact(0.0, key="progress", description="beginning")
                self._id = created if isinstance(created, UUID) else None

    def _update(self, step: Step, state: str, seconds: float, text: str) -> None:
        if step.ref in self._cells:
            self._cells[step.ref] = (step.hints["candidate"], state)
        now, tally = time.monotonic(), self.tally
        last = tally.settled == tally.total
        if self._id and (last or now - self._updated > _SECONDS_BETWEEN_UPDATES):
            self._updated = now
            text = f"{sentence(tally, self._slots)}\n\n{cells_table(self._cells.values())}"
            share = tally.settled / tally.total
            update_progress_artifact(self._id, progress=100.0 * share, description=text)


def sentence(tally: Tally, slots: int) -> str:
    """``312 of 1,000 artefacts: 300 computed, 12 cached; about 1:15 left``."""
    counts = [f"{tally.done.total():,} computed", f"{tally.cached.total():,} cached"]
    counts += [f"{tally.failed.total():,} failed"] if tally.failed else []
    counts += [f"{tally.skipped.total():,} skipped"] if tally.skipped else []
    left = tally.seconds_left(slots) if tally.settled < tally.total else None
    ahead = f"; about {clock(left)} left" if left is not None else ""
    return f"{tally.settled:,} of {tally.total:,} artefacts: {', '.join(counts)}{ahead}"


def cells_table(cells: Iterable[tuple[str, str]]) -> str:
    """Cells, given as candidate and state, counted in a Markdown table with a row per candidate."""
    counts = Counter(cells)
    used = {state for _, state in counts}
    states = [state for state in _CELL_STATES if state in used]
    if not states:
        return ""
    rows = [["cells of", *states], ["---", *("---:" for _ in states)]]
    for candidate in dict.fromkeys(candidate for candidate, _ in counts):
        rows.append([plain(candidate), *(f"{counts[candidate, state]:,}" for state in states)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plain(text: str) -> str:
    """``text`` escaped for a page that renders Markdown with HTML."""
    return html.escape(text)


def ranking_rows(result: Result) -> list[dict[str, Any]]:
    """The rows of the ranking, formatted for a table."""
    rows = result.ranking
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
        for row in cast(Any, rows.rename(columns={"rank": "rank_"}).itertuples())
    ]


def show_decisions(store: Store, decisions: Sequence[Ref], *, over: bool) -> None:
    """Show the candidates dropped so far, with when and why, as a table of the flow run."""
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


def show_result(store: Store, result: Result, folder: Path, page: str | None) -> None:
    """Show the ranking, and the verdict with links to the report and to MLflow's ``page``.

    Keys have the pipeline's name, so that the pages show the runs of a schedule in sequence.
    """
    name, sentence = result.pipeline, plain(result.verdict)
    create_table_artifact(
        key=_key("ranking", name), table=ranking_rows(result), description=sentence
    )
    report = folder / "report.html"
    served = reports_address(store.root, report)
    lines = [f"Report: [{report.name}]({served})" if served else f"Report: `{report}`"]
    lines += [f"MLflow: [its run]({page})" if page else "MLflow: `lensllm ui` serves its page."]
    create_markdown_artifact(
        key=_key("verdict", name), markdown="\n\n".join(lines), description=sentence
    )


def _key(kind: str, name: str) -> str:
    """Prefect's keys are of lower case letters, digits and dashes."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', name.lower())}".strip("-")

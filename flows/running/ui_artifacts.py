"""What a run shows in Prefect's UI besides its task runs: a progress bar and the ranking."""

from __future__ import annotations

import html
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
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

from flows.running.progress import Tally, clock
from flows.server.prefect_server import reports_address
from lensllm.report.result import Result
from lensllm.store.artifacts import Ref, Store
from tasks.base.step import Step
from tasks.stages import decision

# Each update is a request to the server; a person does not look more often than this.
_SECONDS_BETWEEN_UPDATES = 2.0


class ProgressArtifact:
    """Observer that keeps one progress bar of the flow run up to date, and below it who has how
    many cells."""

    def __init__(self, slots: int) -> None:
        self._id: UUID | None = None
        self._slots = slots
        self._lock = threading.Lock()
        self._tally = Tally()
        self._cells = Cells()
        self._updated = 0.0

    def planned(self, steps: Sequence[Step]) -> None:
        with self._lock:
            self._tally.plan(steps)
            self._cells.count(steps, "to come")
            if self._id is None:
                created = create_progress_artifact(0.0, key="progress", description="beginning")
                self._id = created if isinstance(created, UUID) else None

    def started(self, step: Step) -> None:
        with self._lock:
            self._tally.start(step)
            self._cells.move(step, "running")
            self._show()

    def finished(self, step: Step, seconds: float, *, cached: bool, note: str = "") -> None:
        with self._lock:
            self._tally.finish(step, seconds, cached=cached)
            self._cells.move(step, "cached" if cached else "done")
            self._show()

    def failed(self, step: Step, reason: str) -> None:
        with self._lock:
            self._tally.settle(step, self._tally.failed)
            self._cells.move(step, "failed")
            self._show()

    def skipped(self, step: Step) -> None:
        with self._lock:
            self._tally.settle(step, self._tally.skipped)
            self._cells.move(step, "skipped")
            self._show()

    def _show(self) -> None:
        now, tally = time.monotonic(), self._tally
        last = tally.settled == tally.total
        if self._id and (last or now - self._updated > _SECONDS_BETWEEN_UPDATES):
            self._updated = now
            update_progress_artifact(
                self._id,
                progress=100.0 * tally.settled / tally.total,
                description=f"{sentence(tally, self._slots)}\n\n{self._cells.markdown}",
            )


def sentence(tally: Tally, slots: int) -> str:
    """``312 of 1,000 artefacts: 300 computed, 12 cached; about 1:15 left``."""
    counts = [f"{tally.computed.total():,} computed", f"{tally.cached.total():,} cached"]
    counts += [f"{tally.failed.total():,} failed"] if tally.failed else []
    counts += [f"{tally.skipped.total():,} skipped"] if tally.skipped else []
    left = tally.seconds_left(slots) if tally.settled < tally.total else None
    ahead = f"; about {clock(left)} left" if left is not None else ""
    return f"{tally.settled:,} of {tally.total:,} artefacts: {', '.join(counts)}{ahead}"


class Cells:
    """How many cells of each candidate are where."""

    _STATES = ("done", "cached", "running", "failed", "skipped", "to come")

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}  # by candidate
        self._where: dict[Ref, str] = {}

    def count(self, steps: Sequence[Step], state: str) -> None:
        """Cells of ``steps`` that are new."""
        for step in steps:
            if step.stage == "finetune":
                self._where[step.ref] = state
                self._counts.setdefault(step.hints["candidate"], Counter())[state] += 1

    def move(self, step: Step, state: str) -> None:
        """A cell is now somewhere else."""
        if before := self._where.pop(step.ref, None):
            self._counts[step.hints["candidate"]][before] -= 1
            self.count([step], state)

    @property
    def markdown(self) -> str:
        """A table with a row per candidate; columns that are zero throughout are left out."""
        total = sum(self._counts.values(), Counter[str]())
        states = [state for state in self._STATES if total[state]]
        if not states:
            return ""
        rows = [["cells of", *states], ["---", *("---:" for _ in states)]]
        rows += [
            [plain(candidate), *(f"{counts[state]:,}" for state in states)]
            for candidate, counts in self._counts.items()
        ]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plain(text: str) -> str:
    """``text`` for a page that renders Markdown with HTML: names in it stay what they are."""
    return html.escape(text)


def ranking_rows(result: Result) -> list[dict[str, Any]]:
    """The answer's rows for a table a person reads."""
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

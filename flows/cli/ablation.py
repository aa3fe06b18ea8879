"""The ablation on the command line: its cost before, JSON and tables after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.cli.summary import json_rows
from flows.running.ablated import Ablated, rows
from lensllm.config import grid
from lensllm.config.grid import Point
from lensllm.core.errors import LensError
from lensllm.report import text
from lensllm.selection.ablation import verdict
from lensllm.store.artifacts import Store
from tasks.base.plan import Plan
from tasks.planning.plan import check, make_plan

if TYPE_CHECKING:
    from flows.running.terminal import Tally

_MOST_ROWS = 24  # of points on a terminal; the page has all
# columns that a narrow terminal lacks, the first to go first
_SPARE = ("true order", "true ≥", "AtS (seen)", "D* (seen)", "AtS", "D*", "regret", "regret ≤",
          "PearCorr", "others")  # fmt: skip
_BETWEEN = 3  # characters from a column to the next


# --- before -------------------------------------------------------------------------------------
def plans(points: Sequence[Point], store: Store) -> list[Plan]:
    """The plan of each point. Raises ``LensError`` naming the first that is impossible."""
    made = []
    for point in points:  # all of them before data is made for any
        with _naming(point):
            check(point.config, store)
    for point in points:
        with _naming(point):
            made.append(make_plan(point.config, store))
    return made


@contextmanager
def _naming(point: Point) -> Iterator[None]:
    try:
        yield
    except LensError as error:
        raise LensError(f"at {point.label}: {error}") from None


@dataclass(frozen=True)
class Effort:
    """Cost of an ablation before it is run."""

    points: int
    cells: int  # different ones
    to_train: int
    at_most: bool  # a sweep policy will ask for fewer

    @classmethod
    def of(cls, made: Sequence[Plan], store: Store) -> Effort:
        cells = {step.ref for plan in made for step in plan.cells.values()}
        return cls(
            points=len(made),
            cells=len(cells),
            to_train=sum(not store.has(ref) for ref in cells),
            at_most=any(plan.config.sweep.policy != "all" for plan in made),
        )

    def __str__(self) -> str:
        most = "at most " if self.at_most else ""
        return f"{self.points} points, {most}{self.cells} different cells, {self.to_train} to train"


# --- after --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Summary:
    """A finished ablation."""

    pipeline: str
    points: pd.DataFrame  # ablation/points
    candidates: pd.DataFrame  # ablation/candidates
    keys: pd.DataFrame  # ablation/keys
    failures: tuple[tuple[str, str], ...]
    folder: Path
    computed: int
    cached: int

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``ablate --json``: what is not finite becomes null, settings are objects."""
        points, keys = json_rows(self.points), json_rows(self.keys)
        return {
            "pipeline": self.pipeline,
            "verdict": verdict(self.points),
            "keys": [
                {**row, **{c: json.loads(row[c]) for c in ("reference", "values")}} for row in keys
            ],
            "points": [{**row, "settings": json.loads(row["settings"])} for row in points],
            "candidates": json_rows(self.candidates),
            "computed": self.computed,
            "cached": self.cached,
            "failed": [{"step": label, "reason": reason} for label, reason in self.failures],
            "report": str(self.folder / "ablation.html"),
        }


def summarise(done: Ablated, store: Store, tally: Tally) -> Summary:
    """The summary of an ablation that has just ended."""
    return Summary(
        pipeline=done.pipeline,
        points=store.table(done.ref, "points"),
        candidates=store.table(done.ref, "candidates"),
        keys=store.table(done.ref, "keys"),
        failures=done.failures,
        folder=done.folder,
        computed=tally.done.total(),
        cached=tally.cached.total(),
    )


def screen(summary: Summary, width: int) -> RenderableType:
    """The final screen of an ablation, for a terminal of ``width`` columns."""
    shown, moves = rows(summary.points), _moves(summary.keys)
    name = f"[bold]{escape(summary.pipeline)}[/bold]: every point"
    parts: list[RenderableType] = [Text(""), _table(name, shown[:_MOST_ROWS], width)]
    if len(shown) > _MOST_ROWS:
        parts.append(Text(f"… and {len(shown) - _MOST_ROWS} more on the page.\n", style="dim"))
    parts += [
        _table("How far one setting alone moves things; transitions in doublings", moves, width),
        Text(verdict(summary.points)),
        Text(f"This run computed {summary.computed} artefacts, {summary.cached} were cached."),
        *(Text(f"failed: {label}: {why}", style="red") for label, why in summary.failures),
        Text(f"\nPage  {summary.folder / 'ablation.html'}", overflow="fold"),
    ]
    return Group(*parts)


def _moves(keys: pd.DataFrame) -> list[dict[str, str]]:
    measured = bool(keys["pearson_high"].notna().any())
    shown = []
    for row in keys.to_dict("records"):
        others = ", ".join(map(grid.shown, json.loads(row["values"])))
        line = {
            "setting": row["key"],
            "own": grid.shown(json.loads(row["reference"])),
            "others": others or text.MISSING,
            "choice changes": f"{row['choice_changes']} of {row['points']}",
            "Kendall ≥": text.score(row["kendall_low"]),
        }
        if measured:
            line |= {
                "true ≥": text.score(row["truth_kendall_low"]),
                "PearCorr": text.interval(row["pearson_low"], row["pearson_high"]) or text.MISSING,
                "regret ≤": text.loss(row["regret_high"]),
            }
        line |= {
            "D*": text.moved(row["transition_move_low"], row["transition_move_high"]),
            "AtS": text.moved(row["ats_move_low"], row["ats_move_high"]),
        }
        shown.append(line)
    return shown


def _table(title: str, lines: Sequence[dict[str, str]], width: int) -> Table:
    """Headings are broken wherever they can be; what can be spared goes where that is too wide."""
    headings = {name: name.replace(" ", "\n").replace("_", "_\n") for name in lines[0]}
    wide = {
        name: max(map(len, [*heading.split("\n"), *(line[name] for line in lines)]))
        for name, heading in headings.items()
    }
    for name in _SPARE:
        if sum(wide.values()) + _BETWEEN * len(wide) > width:
            wide.pop(name, None)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = title
    for name in wide:
        words = name in ("choice", "others", "setting")
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(headings[name], justify=justify, overflow="fold", no_wrap=not words)
    for line in lines:
        style = "bold" if line.get("") == "own" else ""
        table.add_row(*(escape(line[name]) for name in wide), style=style)
    return table

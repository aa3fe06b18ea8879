"""Rich renderings of what the command line tells; no logic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.progress import clock
from flows.summary import Garbage, Grid, Summary

if TYPE_CHECKING:
    from tasks.estimate import Forecast

_UNITS = {"bits_per_byte": "bits per byte", "nats_per_token": "nats per token"}
_WIDE = 96  # columns, from which there is room for bars
_MARKS = {"done": "[green]●[/green]", "running": "[cyan]◐[/cyan]", "to come": "[dim]○[/dim]"}


def ranking(summary: Summary, width: int) -> RenderableType:
    """The final screen of a run, for a terminal of ``width`` columns."""
    rows = summary.chosen
    measured = bool(rows["measured"].notna().any())
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = (
        f"[bold]{escape(summary.pipeline)}[/bold]: predicted loss at D = {summary.target:,} "
        f"({_UNITS[summary.settings.ranking.metric]}), from D ≤ {summary.settings.sweep.max:,}"
    )
    table.add_column("", justify="right")
    table.add_column("candidate", overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("predicted", justify="right", no_wrap=True)
    table.add_column("80 % interval", justify="center", no_wrap=True)
    table.add_column("P(best)", justify="right", no_wrap=True)
    if measured:
        table.add_column("measured", justify="right", no_wrap=True)
        table.add_column("rank", justify="right", no_wrap=True)
    for place, row in enumerate(rows.itertuples(index=False), 1):
        cells = [
            str(place),
            escape(row.candidate),
            count(summary.parameters[row.candidate]),
            f"{row.predicted:.4f}",
            f"{row.low:.3f}–{row.high:.3f}",
            _chance(row.p_best, bar=width >= _WIDE),
        ]
        if measured:
            known = not pd.isna(row.measured)
            cells += [f"{row.measured:.4f}" if known else "–", str(row.measured_rank or "–")]
        table.add_row(*cells, style="bold" if place == 1 else "")
    parts: list[RenderableType] = [Text(""), table, Text(summary.verdict)]
    if measured:
        parts += [Text(_hindsight(rows)), Text(""), _predictors(summary)]
    parts.append(Text(_money(summary)))
    parts += [Text(f"failed: {label}: {why}", style="red") for label, why in summary.failures]
    parts.append(Text(f"\nReport   {summary.folder / 'report.html'}", overflow="fold"))
    parts.append(Text("Servers  lensllm ui   (Prefect and MLflow pages on this machine)"))
    return Group(*parts)


def _predictors(summary: Summary) -> Table:
    """What every predictor would have chosen, and how right it was."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = "Every predictor on the same cells, against the measured truth"
    for column in ("predictor", "chooses"):
        table.add_column(column, no_wrap=True)
    for column in ("RelAcc", "Pearson", "Spearman", "RMSE of log loss", "in 80 %"):
        table.add_column(column, justify="right")
    firsts = summary.predictions[summary.predictions["rank"] == 1]
    chosen = dict(zip(firsts["predictor"], firsts["candidate"], strict=True))
    for row in summary.scores.sort_values("rel_acc", ascending=False, kind="stable").itertuples():
        used = row.predictor == summary.settings.ranking.predictor
        table.add_row(
            row.predictor,
            escape(chosen[row.predictor]),
            f"{row.rel_acc:.3f}",
            f"{row.pearson:.3f}",
            f"{row.spearman:.3f}",
            f"{row.rmse_log:.4f}",
            f"{row.coverage_80:.0%}",
            style="bold" if used else "",
        )
    return table


def _chance(share: float, *, bar: bool) -> str:
    filled = round(12 * share)
    drawn = f"[cyan]{'━' * filled}[/cyan][dim]{'─' * (12 - filled)}[/dim] " if bar else ""
    return f"{drawn}{share:4.0%}"


def _hindsight(rows: pd.DataFrame) -> str:
    """Whether the choice was right, in words."""
    known = rows.dropna(subset=["measured"])
    chosen, best = rows.iloc[0], known.loc[known["measured"].idxmin()]
    if chosen["candidate"] == best["candidate"]:
        return "Was it right? Yes: measured at the target, it is the best."
    return (
        f"Was it right? No: measured at the target, {best['candidate']} is better "
        f"by {chosen['measured'] - best['measured']:.4f}; "
        f"the choice is number {chosen['measured_rank']} of {len(known)}."
    )


def _money(summary: Summary) -> str:
    spent, full = (summary.cost[c].sum() for c in ("spent_flops", "full_flops"))
    compared = f"{summary.saved:.0%} saved"
    if summary.saved < 0:
        compared = f"{-summary.saved:.0%} more, for a target so near the budget"
    text = (
        f"Cost: {flops(spent)} spent against {flops(full)} for fine-tuning every candidate on "
        f"the target: {compared}."
    )
    if summary.computed is not None:
        text += f"\nThis run computed {summary.computed} artefacts, {summary.cached} were cached."
    return text


def plan(name: str, forecast: Forecast) -> RenderableType:
    """What a run would do."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"[bold]{escape(name)}[/bold]: cells to run, target D = {forecast.target:,}"
    for column in ("candidate", "weights", "cells", "cached", "to run", "sweep", "full answer"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for c in forecast.candidates:
        table.add_row(
            escape(c.name),
            count(c.parameters),
            str(c.cells),
            str(c.cached),
            flops(c.flops_to_run),
            flops(c.flops_sweep),
            flops(c.flops_full),
        )
    stages = ", ".join(f"{stage} {done}/{made}" for stage, (made, done) in forecast.steps.items())
    missing = sum(made - done for made, done in forecast.steps.values())
    full = sum(c.flops_full for c in forecast.candidates)
    sweep = sum(c.flops_sweep for c in forecast.candidates)
    lines = [
        f"Cached: {stages}.",
        "Everything is cached: a run computes nothing." if not missing else _effort(forecast),
        f"The full answer (every candidate on the target) costs {flops(full)}; "
        f"the cells that predict it {flops(sweep)}, {_less(1 - sweep / full)}.",
    ]
    return Group(Text(""), table, *(Text(line) for line in lines))


def _less(share: float) -> str:
    return f"{share:.0%} less" if share >= 0 else f"{-share:.0%} more"


def _effort(forecast: Forecast) -> str:
    source = "at the pace of finished cells" if forecast.measured_pace else "at an assumed pace"
    text = (
        f"To run: {flops(sum(c.flops_to_run for c in forecast.candidates))} in cells, about "
        f"{clock(60 * forecast.minutes)} (min:s) with {forecast.slots} at a time, {source}; "
        f"up to {forecast.peak_bytes / 1e9:.1f} GB of memory."
    )
    if forecast.to_pretrain:
        text += f" {forecast.to_pretrain} embedded candidates are pretrained first (minutes)."
    return text


def status(name: str, grid: Grid) -> RenderableType:
    """Every cell's state."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    done = sum(state == "done" for state in grid.states.values())
    table.title = f"[bold]{escape(name)}[/bold]: {done} of {len(grid.states)} cells done"
    table.add_column("candidate", overflow="fold")
    for size in grid.sizes:
        label = f"D={size:,}" + (" (target)" if size == grid.target else "")
        table.add_column(label, justify="center")
    for candidate in dict.fromkeys(cell.candidate for cell in grid.states):
        marks = [
            " ".join(
                _MARKS[state]
                for cell, state in grid.states.items()
                if (cell.candidate, cell.size) == (candidate, size)
            )
            for size in grid.sizes
        ]
        table.add_row(escape(candidate), *marks)
    legend = "  ".join(f"{mark} {state}" for state, mark in _MARKS.items())
    others = ", ".join(f"{stage} {done}/{made}" for stage, (made, done) in grid.others.items())
    return Group(Text(""), table, Text.from_markup(legend), Text(f"Other artefacts: {others}."))


def garbage(found: Garbage, *, deleted: bool) -> RenderableType:
    """What no pipeline refers to."""
    if not found.refs:
        return Text("Nothing to collect: every artefact belongs to a pipeline.")
    lines = [
        f"{ref}  {size / 1e6:.1f} MB"
        for ref, size in zip(found.refs, found.sizes_bytes, strict=True)
    ]
    total = f"{len(found.refs)} artefacts, {sum(found.sizes_bytes) / 1e6:.1f} MB"
    lines.append(f"Deleted {total}." if deleted else f"{total}; delete them with --delete.")
    return Text("\n".join(lines))


def count(number: float) -> str:
    """``1240000`` → ``1.24M``."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"


def flops(number: float) -> str:
    """``3.2e12`` → ``3.2 TFLOP``."""
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}FLOP"
    if not number:
        return "nothing"
    return f"{number / 1e6:.3g} MFLOP"

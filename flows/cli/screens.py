"""Rich renderings of what the command line tells; no logic."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.cli.summary import Garbage, Summary
from flows.running.terminal import clock
from lensllm.diagnostics.checks import check
from lensllm.report.answer_tables import was_it_right
from lensllm.report.result import Result
from lensllm.report.text import flops, memory
from lensllm.report.text import short as count

if TYPE_CHECKING:
    from tasks.planning.estimate import Forecast
    from tasks.planning.preflight import Preflight

_WIDE = 96  # columns, from which there is room for bars
_NAMED = 3  # candidates in a finding about many
_MOST_ROWS = 12  # of a ranking on a terminal; the report has all


def ranking(summary: Summary, width: int) -> RenderableType:
    """The final screen of a run, for a terminal of ``width`` columns."""
    result, rows = summary.result, summary.result.ranking
    measured = bool(rows["measured"].notna().any())
    parts: list[RenderableType] = [Text(""), _table(result, measured, width)]
    if len(rows) > _MOST_ROWS:
        parts.append(Text(f"… and {len(rows) - _MOST_ROWS} more in the report.\n", style="dim"))
    parts.append(Text(result.verdict))
    if measured:
        truth = was_it_right(result)
        words = " ".join([truth.answer, *truth.details])
        parts += [Text(f"Was it right? {words}"), Text("")]
        budgets = len(result.budgets) > 1
        parts.append(_budgets(result) if budgets else _predictors(result))
    parts += [Text(line) for line in _sweep(result)]
    if len(result.findings):
        parts.append(_checks(result))
    parts += [Text(line) for line in _money(summary)]
    parts += [Text(f"failed: {label}: {why}", style="red") for label, why in summary.failures]
    parts.append(Text(f"\nReport   {summary.folder / 'report.html'}", overflow="fold"))
    parts.append(Text("Servers  lensllm ui   (Prefect and MLflow pages on this machine)"))
    return Group(*parts)


def _table(result: Result, measured: bool, width: int) -> Table:
    """The candidates, best first."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    epochs = f" for {result.target_epochs} epochs" if result.target_epochs > 1 else ""
    table.title = (
        f"[bold]{escape(result.pipeline)}[/bold]: predicted loss at D = {result.target:,}{epochs} "
        f"({result.unit}), from D ≤ {result.budget:,}, by {result.predictor}"
    )
    known = any(weights > 0 for weights in result.parameters.values())
    headings = ["weights"] if known else []
    headings += ["predicted", "80 % interval", "P(best)"]
    headings += ["measured", "rank"] if measured else []
    table.add_column("", justify="right")
    table.add_column("candidate", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    chosen = result.choice
    row: Any
    for place, row in enumerate(result.ranking.head(_MOST_ROWS).itertuples(index=False), 1):
        weights = result.parameters[row.candidate]
        cells = [
            str(place),
            escape(row.candidate),
            *([count(weights) if weights > 0 else "–"] if known else []),
            f"{row.predicted:.4f}",
            f"{row.low:.3f}–{row.high:.3f}",
            _chance(row.p_best, bar=width >= _WIDE),
        ]
        if measured:
            there = not pd.isna(row.measured)
            cells += [f"{row.measured:.4f}" if there else "–", str(row.measured_rank or "–")]
        table.add_row(*cells, style="bold" if row.candidate == chosen else "")
    return table


def _predictors(result: Result) -> Table:
    """Choice and scores of every predictor."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = "Every predictor on the same cells, against the measured truth"
    for column in ("predictor", "predicted lowest"):
        table.add_column(column, no_wrap=True)
    for column in ("RelAcc", "Pearson", "Spearman", "RMSE of log loss", "in 80 %"):
        table.add_column(column, justify="right")
    last = result.all_predictions["budget"] == result.budget
    firsts = result.all_predictions[last & (result.all_predictions["rank"] == 1)]
    chosen = dict(zip(firsts["predictor"], firsts["candidate"], strict=True))
    scores = result.scores.sort_values("rel_acc", ascending=False, kind="stable")
    row: Any
    for row in scores.itertuples():
        used = row.predictor == result.predictor
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


def _budgets(result: Result) -> Table:
    """Pearson correlation of every predictor at every budget, and the means of the scores."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = "Pearson correlation with the measured truth by budget, and means over budgets"
    table.add_column("predictor", no_wrap=True)
    for budget in result.budgets:
        table.add_column(count(budget), justify="right", no_wrap=True)
    for column in ("mean", "RelAcc", "RMSE log", "in 80 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, rows in result.all_scores.groupby("predictor", sort=False):
        pearson = rows.set_index("budget")["pearson"].reindex(result.budgets)
        numbers = [*pearson, pearson.mean(), rows["rel_acc"].mean(), rows["rmse_log"].mean()]
        cells = [str(name), *(f"{number:.3f}" for number in numbers)]
        cells.append(f"{rows['coverage_80'].mean():.0%}")
        table.add_row(*cells, style="bold" if name == result.predictor else "")
    return table


def _sweep(result: Result) -> list[str]:
    """Candidates that a policy dropped, and the reason it stopped."""
    rows = result.decisions
    lines = []
    if result.policy != "all" and rows.empty:
        lines.append(
            f"The policy {result.policy} had nothing to decide: all sizes are within "
            "16 times the smallest, where every candidate is trained."
        )
    for budget, dropped in rows[rows["dropped"] != ""].groupby("budget", sort=False):
        who = ", ".join(f"{row.candidate} ({row.dropped})" for row in dropped.itertuples())
        lines.append(f"Dropped after D = {budget:,}: {who}.")
    if len(rows) and (stop := rows["stop"].iloc[-1]):
        lines.append(f"The sweep stopped at D = {rows['budget'].iloc[-1]:,}: {stop}.")
    return lines


def _checks(result: Result) -> Table:
    """Numbered findings; docs/checks.md explains them."""
    rows = zip(result.findings["code"], result.findings["message"], strict=True)
    return _coded((code, _short(check.fold(message))) for code, message in rows)


def _coded(findings: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="yellow", no_wrap=True)
    table.add_column(overflow="fold")
    for code, message in findings:
        table.add_row(code, escape(message))
    return table


def _short(message: check.Message) -> str:
    """A long list of candidates is cut; JSON and the report have it whole."""
    if not message.folded:
        return message.before
    names = "), ".join(message.folded.split("), ")[:_NAMED])
    return f"{message.before}, {names}), …; {message.after}"


def _chance(share: float, *, bar: bool) -> str:
    filled = round(12 * share)
    drawn = f"[cyan]{'━' * filled}[/cyan][dim]{'─' * (12 - filled)}[/dim] " if bar else ""
    return f"{drawn}{share:4.0%}"


def _money(summary: Summary) -> list[str]:
    result = summary.result
    lines, saved = [], result.saved
    if saved is not None:
        compared = f"{saved:.1%} saved"
        if saved < 0:
            compared = f"{-saved:.0%} more, for a target so near the budget"
        if len(result.simulated_cost):
            spent, full = (f"{value:,.0f} examples" for value in result.simulated_cost.iloc[0])
        else:
            known = result.cost.dropna()
            spent, full = (flops(known[c].sum()) for c in ("spent_flops", "full_flops"))
        lines.append(
            f"Cost: {spent} spent against {full} for fine-tuning every candidate on "
            f"the target: {compared}."
        )
    if len(rows := result.forecast):
        predicted, seconds = rows["predicted_seconds"].sum(), rows["seconds"].sum()
        lines.append(
            f"Time in cells: {clock(seconds)} (min:s), {clock(predicted)} predicted by the probes, "
            f"{seconds / predicted:.2f} times that; memory {_gigabytes(rows['peak_memory_bytes'])} "
            f"a worker at most, {_gigabytes(rows['predicted_peak_memory_bytes'])} predicted."
        )
    if summary.computed is not None:
        lines.append(
            f"This run computed {summary.computed} artefacts, {summary.cached} were cached."
        )
    return lines


def _gigabytes(counts: pd.Series) -> str:
    return f"{counts.max() / 1e9:.2f} GB"


def plan(name: str, forecast: Forecast, found: Preflight) -> RenderableType:
    """The screen of ``plan``: cells, cost, and findings in the data."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"[bold]{escape(name)}[/bold]: cells to run, target D = {forecast.target:,}"
    headings = ("weights", "cells", "cached", "to run", "time", "memory", "sweep", "full answer")
    table.add_column("candidate", overflow="fold")
    for column in headings:
        table.add_column(column, justify="right", no_wrap=True)
    for c in forecast.candidates:
        table.add_row(
            escape(c.name),
            count(c.parameters),
            str(c.cells),
            str(c.cached),
            flops(c.flops_to_run),
            clock(c.seconds_to_run),
            f"{c.peak_bytes / 1e9:.1f} GB",
            flops(c.flops_sweep),
            flops(c.flops_full),
        )
    stages = ", ".join(f"{stage} {done}/{made}" for stage, (made, done) in forecast.steps.items())
    ways: dict[str, list[str]] = {}
    for c in forecast.candidates:
        ways.setdefault(c.runs_with, []).append(c.name)
    missing = sum(made - done for made, done in forecast.steps.values())
    full = sum(c.flops_full for c in forecast.candidates)
    sweep = sum(c.flops_sweep for c in forecast.candidates)
    lines = [
        *(f"{', '.join(names)}: {way}." for way, names in ways.items()),
        f"Cached: {stages}.",
        "Everything is cached: a run computes nothing." if not missing else _effort(forecast),
        f"The full answer (every candidate on the target) costs {flops(full)}; "
        f"{_paid(forecast)} that predict it {flops(sweep)}, {_less(1 - sweep / full)}.",
    ]
    if forecast.trunk_bytes:
        lines += _trunks(forecast)
    if forecast.at_most:
        lines.insert(-1, "With a sweep policy these are the most a run may ask for.")
    return Group(Text(""), table, *(Text(line) for line in lines), *_data_findings(found))


def _trunks(forecast: Forecast) -> list[str]:
    """The states of trunks on the disk, and the reading of epochs."""
    states = f"The states of the trunks take {memory(forecast.trunk_bytes)} on the disk"
    if forecast.trunk_bytes > forecast.free_bytes:
        states += f", which has {memory(forecast.free_bytes)} left: free some, or name another "
        states += "folder with --artifacts"
    epochs = f"Subsets are read once; the target is predicted for {forecast.epochs} epochs."
    return [f"{states}.", *([epochs] if forecast.epochs > 1 else [])]


def _data_findings(found: Preflight) -> list[RenderableType]:
    """Findings of the checks of the data."""
    lines: list[RenderableType] = [_coded(found.findings)] if found.findings else []
    lines += [
        Text(f"{name} cannot read the data: {why}", style="red") for name, why in found.failed
    ]
    if found.unchecked:
        who = ", ".join(found.unchecked)
        lines.append(Text(f"Lengths are not checked for {who}: a run makes their tokenizer first."))
    return lines


def _less(share: float) -> str:
    return f"{share:.0%} less" if share >= 0 else f"{-share:.0%} more"


def _paid(forecast: Forecast) -> str:
    """The parts of the sweep's FLOPs."""
    parts = ["cells"]
    parts += ["kernels"] if "kernel" in forecast.steps else []
    parts += ["curvature"] if "curvature" in forecast.steps and not forecast.uncounted else []
    said = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    left_out = " (curvature, known only when it is measured, left out)"
    return said + (left_out if forecast.uncounted else "")


def _effort(forecast: Forecast) -> str:
    running = [c for c in forecast.candidates if c.cached < c.cells or c.flops_to_run]
    sources = {c.throughput_source for c in running}
    text = (
        f"To run: {flops(sum(c.flops_to_run for c in forecast.candidates))} in cells, about "
        f"{clock(60 * forecast.minutes)} (min:s) with {forecast.slots} at a time, "
        f"{_source(sources)}; up to {forecast.peak_bytes / 1e9:.1f} GB of memory."
    )
    if forecast.to_pretrain:
        text += f" {forecast.to_pretrain} embedded candidates are pretrained first (minutes)."
    if forecast.to_download_bytes:
        text += f" {memory(forecast.to_download_bytes)} of weights are downloaded first."
    return text


def _source(sources: Collection[str]) -> str:
    """Source of the predicted minutes, and how to improve them."""
    if set(sources) <= {"probe"}:
        return "as probed on this machine"
    words = "the throughput of finished cells" if "cells" in sources else "an assumed throughput"
    return f"at {words}{' where not probed' if 'probe' in sources else ''} (--probe measures it)"


def garbage(found: Garbage, *, deleted: bool) -> RenderableType:
    """Artefacts that no pipeline refers to."""
    if not found.refs:
        return Text("Nothing to collect: every artefact belongs to a pipeline.")
    lines = [
        f"{ref}  {size / 1e6:.1f} MB"
        for ref, size in zip(found.refs, found.sizes_bytes, strict=True)
    ]
    total = f"{len(found.refs)} artefacts, {sum(found.sizes_bytes) / 1e6:.1f} MB"
    lines.append(f"Deleted {total}." if deleted else f"{total}; delete them with --delete.")
    return Text("\n".join(lines))

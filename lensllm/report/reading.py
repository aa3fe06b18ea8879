"""The result of a finished run, read from its artifacts folder alone, without torch or Prefect."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensllm.core.errors import StoreError
from lensllm.core.meter import versions
from lensllm.report.result import TABLES, Result
from lensllm.selection.ranking import verdict
from lensllm.spectra.spectrum import Spectrum
from lensllm.store.artifacts import Ref, Store

_CELL_COSTS = ["candidate", "size", "repeat", "seconds", "peak_memory_bytes"]


def report_folder(store: Store, pipeline: str) -> Path:
    """The folder of the last report of ``pipeline``."""
    return store.root / "reports" / pipeline


def publish(store: Store, pipeline: str, report: Ref, ranking: Ref) -> Path:
    """Copy a finished report, its figure and its predictions to the folder of ``pipeline``.

    An equal file stays, so that its time says when it last changed.
    """
    folder = report_folder(store, pipeline)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "curves.png"):
        made, shown = store.path(report) / name, folder / name
        if not shown.is_file() or not filecmp.cmp(made, shown, shallow=False):
            shutil.copyfile(made, shown)
    store.table(ranking, "predictions").to_csv(folder / "predictions.csv", index=False)
    return folder


def read_result(artifacts: str | Path, pipeline: str) -> Result:
    """Read the result that the last report of ``pipeline`` shows.

    Args:
        artifacts: the artifacts folder of the run.
        pipeline: name of the pipeline, or of the replay (``replay-<table>``).

    Raises:
        StoreError: there is no report of that name, or its artefacts were deleted.

    >>> read_result("artifacts", "never-run")
    Traceback (most recent call last):
    ...
    lensllm.core.errors.StoreError: ... has no report of 'never-run'; lensllm run never-run
    """
    store = Store(Path(artifacts))
    shown = report_folder(store, pipeline) / "report.html"
    if not shown.is_file():
        raise StoreError(f"{store.root} has no report of '{pipeline}'; lensllm run {pipeline}")
    page = shown.read_bytes()
    for ref in store.present():
        if ref.stage == "report" and store.has(ref):
            copy = store.path(ref) / "report.html"
            if copy.stat().st_size == len(page) and copy.read_bytes() == page:
                return read_report(store, ref)
    raise StoreError(f"the artefacts of {shown} were deleted; lensllm run {pipeline} again")


def read_report(store: Store, report: Ref) -> Result:
    """The result that the artefact ``report`` of a finished run shows.

    Raises:
        StoreError: an artefact that the report was made from is missing or damaged.
    """
    manifest = store.manifest(report)
    upstream = {role: Ref(*ref) for role, ref in manifest["upstream"].items()}
    more = store.table(report, "measurements")
    tables = {str(title): _wide(rows) for title, rows in more.groupby("title", sort=False)}
    return result_of(store, manifest["params"], upstream, store.table(report, "forecast"), tables)


def result_of(
    store: Store,
    params: Mapping[str, Any],
    upstream: Mapping[str, Ref],
    forecast: pd.DataFrame,
    extra_tables: Mapping[str, pd.DataFrame] | None = None,
) -> Result:
    """The result that a report of these parameters and upstream artefacts shows."""
    read = _Reader(store, upstream)
    cells, density = read.each("finetune", "cell"), read.of_cells("density")
    densities = {}
    if len(density):
        densities = {str(name): rows for name, rows in density.groupby("candidate")}
    tables: dict[str, Any] = {name: read.table(*path.split("/")) for name, path in TABLES.items()}
    tables |= {"decisions": read.decisions(), "bounds": read.of_cells("bound"),
               "forecast": forecast}  # fmt: skip
    predictions = tables["all_predictions"]
    budget, predictor = int(predictions["budget"].max()), params["predictor"]
    final = predictions[predictions["budget"] == budget]
    return Result(
        pipeline=params["pipeline"],
        metric=params["metric"],
        target=params["target"],
        budget=budget,
        predictor=predictor,
        verdict=verdict(final, predictor, params["target"], params["metric"]),
        **tables,
        layers=read.of_cells("layers"),
        densities=densities,
        cell_costs=_cell_costs(cells),
        spectra={
            name: Spectrum(t["eigenvalue"].to_numpy(), t["projection_squared"].to_numpy())
            for name, t in read.each("kernel", "spectrum").items()
        },
        kernel_matrices=read.each("kernel", "matrix"),
        overlaps={name: t.iloc[0] for name, t in read.each("overlap", "summary").items()},
        failed=[(label, reason) for label, reason in params["failed"]],
        config=params["config"],
        versions=_versions(cells),
        learning_rates=read.each("rate", "rates"),
        extra_tables=extra_tables or {},
    )


@dataclass(frozen=True)
class _Reader:
    """The tables upstream of a report; an empty frame for those that do not exist."""

    store: Store
    upstream: Mapping[str, Ref]  # by role: ``curve``, or ``kernel:gpt2`` for the kernel of gpt2

    def table(self, role: str, table: str) -> pd.DataFrame:
        """``table`` of the one artefact in ``role``."""
        ref = self.upstream.get(role)
        return self.store.table(ref, table) if ref else pd.DataFrame()

    def each(self, kind: str, table: str) -> dict[str, pd.DataFrame]:
        """``table`` of every artefact of a kind, by its label."""
        refs = {role.partition(":")[::2]: ref for role, ref in self.upstream.items()}
        return {
            label: self.store.table(ref, table)
            for (name, label), ref in refs.items()
            if name == kind and label
        }

    def of_cells(self, table: str) -> pd.DataFrame:
        """A table of the curvature of every cell, with the cell's candidate, size and repeat."""
        frames = []
        for label, rows in self.each("curvature", table).items():
            candidate, size, repeat = label.split("|")
            if len(rows):  # pandas cannot tell what a column without rows holds
                frames.append(rows.assign(candidate=candidate, size=int(size), repeat=int(repeat)))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def decisions(self) -> pd.DataFrame:
        """A policy's decisions round after round, made in a sweep or played on a table."""
        if "simulation" in self.upstream:
            return self.table("simulation", "decisions")
        rounds = list(self.each("decision", "decisions").values())
        return pd.concat(rounds, ignore_index=True) if rounds else pd.DataFrame()


def _cell_costs(cells: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Seconds and memory of each cell, by the candidates' names in this pipeline."""
    frames = [
        table.assign(candidate=label.split("|")[0])[_CELL_COSTS] for label, table in cells.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_CELL_COSTS)


def _versions(cells: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    if not cells:
        return versions()
    known: dict[str, str] = json.loads(next(iter(cells.values()))["versions"].iloc[0])
    return known


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """One table of report/measurements, its columns in their order."""
    wide = rows.pivot(index="row", columns="column", values="value")
    return wide[list(dict.fromkeys(rows["column"]))].reset_index(drop=True)


def long_form(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables by their title as rows of report/measurements, the values as text."""
    rows = [
        (title, place, str(column), text)
        for title, table in tables.items()
        for place, record in enumerate(table.to_dict("records"))
        for column, value in record.items()
        for text in [f"{value:.4g}" if isinstance(value, float) else str(value)]
    ]
    return pd.DataFrame(rows, columns=["title", "row", "column", "value"])

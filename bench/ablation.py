"""Does the pretrained model's kernel help? Predictors with it beside the same without, and with
kernels that are shuffled between the candidates, on the finished pipelines of ``artifacts``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench import hrb_kernel
from bench.learning_curve import exponent, risk
from bench.timing import markdown
from lensllm.config import configfile
from lensllm.core.errors import DataError, LensError
from lensllm.core.seeds import generator
from lensllm.curves.curve import Array, Curves, curves_from_cells
from lensllm.predictors import (
    DEFAULT_PRIOR,
    PREDICTORS,
    Function,
    Mixture,
    hrb,
    mixtures,
    names_reading,
)
from lensllm.selection import bootstrap, scores
from lensllm.selection.backtest import Backtest
from lensllm.store.artifacts import Store
from tasks.planning.plan import make_plan
from tasks.stages import curve, kernel

ARTIFACTS, PIPELINES = Path("artifacts"), ("bench", "docstrings", "names")
BUDGETS = (400, 800, 1600, 3200)
SHUFFLES = 100
# what a predictor with kernels is, where the kernels say nothing
WITHOUT = {
    **dict.fromkeys(names_reading("kernel"), "rectified"),
    "hrb_kernel": "hrb",
    "stack_kernel": "stack",
}
# with two that have not earned a place among the predictors
REGISTRY = {
    **PREDICTORS,
    "hrb_kernel": Function(hrb_kernel.predict, needed_sizes=1, reads=("kernel",)),
    "stack_kernel": Mixture(("ats", "hrb_kernel"), mixtures.least_error_weights),
}
NAMES = ["rectified", "lensllm", "lensllm_phase", "lensllm_pooled", "hrb", "hrb_kernel", "stack",
         "stack_kernel"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A finished pipeline."""

    curves: Curves  # up to the budget, with kernels
    truth: Array  # (M,) measured at the target, mean over the seeds
    target: float

    @property
    def budgets(self) -> list[int]:
        return [budget for budget in BUDGETS if budget <= self.curves.sizes[-1]]

    def inside(self) -> Case:
        """The largest size of the sweep in place of the target, asked of the smaller ones."""
        known = self.curves.until(self.curves.sizes[-2])
        return Case(known, self.curves.mean_losses[:, -1], float(self.curves.sizes[-1]))

    def only(self, candidates: list[str]) -> Case:
        rows = [self.curves.candidates.index(name) for name in candidates]
        return replace(self, curves=self.curves.only(candidates), truth=self.truth[rows])


@cache
def case(name: str) -> Case:
    """Raises DataError when the pipeline has not finished."""
    store = Store(ARTIFACTS)
    plan = make_plan(configfile.load(Path("pipelines.yaml"), name), store)
    table = curve.step({cell: step.ref for cell, step in plan.cells.items()}, plan.models).ref
    kernels = {candidate: step.ref for candidate, step in plan["kernel"].items()}
    if not all(map(store.has, [table, *kernels.values()])):
        raise DataError(f"Pipeline {name} has not finished in {ARTIFACTS}/: `lensllm run {name}`.")
    spectra = {candidate: kernel.read_spectrum(store, ref) for candidate, ref in kernels.items()}
    cells, metric = store.table(table, "cells"), plan.config.ranking.metric
    curves = curves_from_cells(cells, metric, plan.config.sweep.max, spectra)
    measured = cells[cells["size"] == plan.target].groupby("candidate")[metric].mean()
    return Case(curves, measured.loc[list(curves.candidates)].to_numpy(), float(plan.target))


def ask(name: str, curves: Curves, target: float) -> Array:
    """(M,) losses at ``target``; NaN where the curves are too short for the predictor."""
    try:
        return Backtest(curves, target, REGISTRY).ask(name, len(curves.sizes)).loss[:, -1]
    except DataError:
        return np.full(len(curves.candidates), np.nan)


def replicates(name: str, curves: Curves, target: float) -> Array:
    """(1 + R, M) losses from the mean over the R seeds, then from each of them alone."""
    seeds = curves.losses.shape[2] if curves.losses.shape[2] > 1 else 0
    alone = [replace(curves, losses=curves.losses[:, :, [seed]]) for seed in range(seeds)]
    return np.stack([ask(name, known, target) for known in (curves, *alone)])


def own_error(predicted: Array, truth: Array) -> float:
    """RMSE of the log loss but for what all candidates share, which changes no order."""
    return float(np.std(np.log(predicted / truth)))


def number(error: float) -> str:
    return f"{error:.4f}" if np.isfinite(error) else "–"


def at_the_budget(label: str, case: Case) -> str:
    """All scores at the largest budget, and how far the kernel moves the error."""
    found = {name: replicates(name, case.curves, case.target) for name in NAMES}
    rows = []
    for name, losses in found.items():
        other = WITHOUT.get(name, name)
        pair = {n: found[n] for n in (name, other)}
        table = bootstrap.compare(pair, case.truth, other, seed=0)
        table = table[table["predictor"] == name].set_index("score")
        gains = [
            f"{row.difference:+.4f} ({row.difference_low:+.4f} … {row.difference_high:+.4f})"
            for row in table.loc[["rmse_log", "pearson"]].itertuples()
        ]
        alone = [scores.rmse_log(row, case.truth) for row in losses[1:]]
        rows.append([
            name,
            f"{table.loc['rmse_log', 'value']:.4f}",
            f"{np.mean(alone):.4f}" if alone else "",
            f"{own_error(losses[0], case.truth):.4f}",
            *(f"{table.loc[score, 'value']:.3f}" for score in ("pearson", "spearman", "rel_acc")),
            f"{table.loc['regret', 'value']:.4f}",
            *(gains if other != name else ["", ""]),
        ])  # fmt: skip
    columns = ["predictor", "RMSE log", "from one seed", "own part", "PearCorr", "Spearman",
               "RelAcc", "regret", "RMSE less that without (95 %)",
               "PearCorr less that without (95 %)"]  # fmt: skip
    last, count = case.curves.sizes[-1], len(case.truth)
    title = f"{label}: {count} candidates, D ≤ {last:,.0f}, target {case.target:,.0f}"
    return markdown(title, columns, rows)


def by_budget(label: str, case: Case) -> str:
    """RMSE and its own part at every budget."""
    rows = []
    for name in NAMES:
        row = [name]
        for budget in case.budgets:
            losses = ask(name, case.curves.until(budget), case.target)
            rmse, own = scores.rmse_log(losses, case.truth), own_error(losses, case.truth)
            row.append(f"{number(rmse)} / {number(own)}")
        rows.append(row)
    columns = ["predictor", *(f"D ≤ {budget:,}" for budget in case.budgets)]
    return markdown(f"{label}: RMSE log / its own part at {case.target:,.0f}", columns, rows)


def shuffled(curves: Curves) -> Iterator[Curves]:
    """The curves with one another's kernels."""
    assert curves.spectra is not None
    random = generator(0, "shuffled kernels")
    for _ in range(SHUFFLES):
        order = random.permutation(len(curves.spectra))
        yield replace(curves, spectra=tuple(curves.spectra[i] for i in order))


def shared(curves: Curves) -> Curves:
    """One kernel and one stopping time for all: their law has one shared, fitted offset."""
    assert curves.spectra is not None
    count = len(curves.candidates)
    ones = np.ones((count, len(curves.sizes)))
    return replace(curves, spectra=curves.spectra[:1] * count, stop_times=ones)


def controls(label: str, case: Case) -> str:
    """True kernels against shuffled ones and none, by RMSE and by its own part."""
    rows = []
    for budget in case.budgets:
        known = case.curves.until(budget)

        def errors(name: str, curves: Curves) -> Array:
            losses = ask(name, curves, case.target)
            return np.array([scores.rmse_log(losses, case.truth), own_error(losses, case.truth)])

        one_offset = errors("lensllm_phase", shared(known))
        for name in WITHOUT:
            true, without = errors(name, known), errors(WITHOUT[name], known)
            if np.isnan(true).any():
                continue
            others = np.stack([errors(name, curves) for curves in shuffled(known)])
            row = [f"{budget:,}", name]
            for k in range(2):
                row += [number(without[k]), f"{true[k]:.4f}", f"{others[:, k].mean():.4f}",
                        f"{(others[:, k] <= true[k]).mean():.2f}"]  # fmt: skip
            law = WITHOUT[name] == "rectified"
            rows.append([*row, " / ".join(f"{e:.4f}" for e in one_offset) if law else ""])
    columns = ["D ≤", "predictor", "RMSE log without", "true kernels", "shuffled, mean",
               "shuffles as good", "own part without", "true kernels", "shuffled, mean",
               "shuffles as good", "one shared D_l"]  # fmt: skip
    title = f"{label}: {SHUFFLES} shuffles of the kernels, errors at {case.target:,.0f}"
    return markdown(title, columns, rows)


def rivals(label: str, case: Case) -> str:
    """HRB with priors moved by other things than the exponent, and by it without one candidate."""
    curves = case.curves
    assert curves.spectra is not None
    assert curves.parameters is not None
    slopes = np.log([exponent(spectrum) for spectrum in curves.spectra])

    def moved_by(values: Array) -> Callable[[Curves], Array]:
        moved = (values - values.mean()) / values.std() * slopes.std()
        return lambda known: hrb.posterior(
            known, np.array([case.target]), DEFAULT_PRIOR, moved
        ).loss[:, -1]

    ways: dict[str, Callable[[Curves], Array]] = {
        "hrb": lambda known: ask("hrb", known, case.target),
        "the kernel's exponent": moved_by(slopes),
        "its sign turned": moved_by(-slopes),
        "number of weights, as wide": moved_by(np.log(curves.parameters)),
    }
    rows = [
        [way, *(f"{scores.rmse_log(answer(curves.until(budget)), case.truth):.4f}"
                for budget in case.budgets)]
        for way, answer in ways.items()
    ]  # fmt: skip
    for left_out in curves.candidates:
        rest = case.only([name for name in curves.candidates if name != left_out])
        row = [f"hrb_kernel less hrb, without {left_out}"]
        for budget in case.budgets:
            rmse = [
                scores.rmse_log(ask(name, rest.curves.until(budget), case.target), rest.truth)
                for name in ("hrb_kernel", "hrb")
            ]
            row.append(f"{rmse[0] - rmse[1]:+.4f}")
        rows.append(row)
    columns = ["prior of ln β moved by", *(f"D ≤ {budget:,}" for budget in case.budgets)]
    title = f"{label}: RMSE log of hrb at {case.target:,.0f} by what moves its prior"
    return markdown(title, columns, rows)


def promises(label: str, case: Case) -> str:
    """What the kernel expects of every candidate, and what came."""
    curves = case.curves
    assert curves.spectra is not None
    assert curves.zero_shot is not None
    expected = np.array([exponent(spectrum) for spectrum in curves.spectra])
    probes = np.array([len(curves.spectra[0].eigenvalues)])
    left = [risk(spectrum, probes)[0] for spectrum in curves.spectra]
    first = curves.mean_losses[:, 0] / curves.zero_shot
    fall = np.log(curves.mean_losses[:, -1] / case.truth)
    error = np.log(ask("hrb", curves, case.target) / case.truth)
    rows = [
        [name, *(f"{value:.3f}" for value in values)]
        for name, *values in zip(curves.candidates, expected, left, first, fall, error, strict=True)
    ]
    title = (
        f"{label}: the kernel's exponent against what came at {case.target:,.0f}; Spearman "
        f"{scores.spearman(expected, fall):+.2f} with the fall, "
        f"{scores.spearman(expected, error):+.2f} with hrb's error"
    )
    columns = ["candidate", "exponent", f"R({probes[0]})", f"L({curves.sizes[0]:,.0f}) / L(0)",
               "ln L(budget) − ln L(target)", "ln hrb − ln L(target)"]  # fmt: skip
    return markdown(title, columns, rows)


def table() -> str:
    return "\n".join(part for name in PIPELINES for part in _parts(name))


def _parts(name: str) -> list[str]:
    try:
        data = case(name)
    except LensError as error:
        return [str(error)]
    return [part(name, data) for part in (at_the_budget, by_budget, controls, promises, rivals)]

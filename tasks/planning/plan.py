"""Every artefact of a pipeline by name, before anything is computed.

A key is made of parameters and other keys, never of contents, so the whole sweep is known at once:
``plan`` prints it, ``status`` looks it up, ``run`` makes what is missing, ``gc`` keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensllm.config.sections import Pipeline
from lensllm.data import sampling, sources
from lensllm.diagnostics.heavy_tails import check_installed
from lensllm.selection.ranking import verdict
from lensllm.store.artifacts import Ref, Store
from tasks.base import models, past
from tasks.base.cell import Cell
from tasks.base.goal import Goal
from tasks.base.models import Model
from tasks.base.roles import labelled, roles
from tasks.base.stage import Step, make
from tasks.stages import (
    checks,
    crossing,
    curvature,
    curve,
    dataset,
    delta,
    drift,
    finetune,
    heavy_tails,
    inspection,
    kernel,
    law,
    overlap,
    prediction,
    probe,
    ranking,
    rate,
    report,
    sample,
    tokens,
)


@dataclass(frozen=True)
class Plan:
    """The steps of a pipeline up to its curves, each artefact once."""

    config: Pipeline
    target: int
    models: tuple[Model, ...]
    dataset: Step
    samples: tuple[Step, ...]  # one per repeat
    drift: Step
    tokens: dict[str, Step]  # by candidate
    probes: dict[str, Step]  # by candidate that has cells to train, or was measured already
    trials: dict[str, dict[float, Step]]  # by candidate and learning rate, where one is chosen
    rates: dict[str, Step]  # the choice, by candidate
    cells: dict[Cell, Step]  # all that a policy may ask for
    kernels: dict[str, Step]  # by candidate; empty when switched off
    overlaps: dict[str, Step]  # by candidate of whose pretraining text something is known
    heavy_tails: dict[str, Step]  # by candidate; empty when switched off
    curvatures: dict[Cell, Step]
    deltas: dict[Cell, Step]  # of those not measured yet: nobody else needs them
    past: dict[str, Ref]  # curves of other data sets; empty when switched off

    @property
    def observed(self) -> tuple[int, ...]:
        """The sizes that curves are fitted to: neither D = 0 nor the measured target."""
        return self.config.sweep.sizes

    @property
    def told(self) -> dict[str, Ref]:
        """What predictors are told beside the cells, by upstream role."""
        return {
            **roles("kernel", {name: step.ref for name, step in self.kernels.items()}),
            **roles("heavy_tails", {n: step.ref for n, step in self.heavy_tails.items()}),
            **roles("past", self.past),
        }

    def inspection(self, store: Store) -> Step:
        """What is said of the data before training, by the tokens that are there."""
        tokens = {name: s.ref for name, s in self.tokens.items() if store.has(s.ref)}
        return inspection.step(self.config, self.dataset.ref, self.samples[0].ref, tokens)

    @property
    def groundwork(self) -> list[Step]:
        """What no policy decides on, upstream first."""
        # The heaviest candidates first: their cells are then not what everybody waits for.
        making = [s for m in sorted(self.models, key=lambda m: -m.work) for s in m.steps]
        order = [self.dataset, *self.samples, *making, *self.tokens.values(), self.drift]
        order += self.probes.values()
        order += [step for steps in self.trials.values() for step in steps.values()]
        order += self.rates.values()
        order += [*self.kernels.values(), *self.heavy_tails.values(), *self.overlaps.values()]
        return list({step.ref: step for step in order}.values())

    @property
    def steps(self) -> list[Step]:
        """Everything that a run makes at most before it concludes, upstream first."""
        order = [*self.groundwork, *self.cells.values()]
        order += [*self.deltas.values(), *self.curvatures.values()]
        return list({step.ref: step for step in order}.values())


@dataclass(frozen=True)
class Conclusion:
    """The small stages after the sweep, over the cells that finished."""

    goal: Goal
    curve: Ref
    law: Step
    ranking: Step
    checks: Step
    report: Step
    before: tuple[Step, ...] = ()  # what makes the curves, and what is said of the data
    beside: tuple[Step, ...] = ()  # what compares the laws with something else

    @property
    def steps(self) -> list[Step]:
        return [*self.before, self.law, self.ranking, *self.beside, self.checks, self.report]

    def predictions(self, store: Store) -> pd.DataFrame:
        """The rows of ranking/predictions at the budget that the answer is for."""
        rows = store.table(self.ranking.ref, "predictions")
        return rows[rows["budget"] == rows["budget"].max()]

    def verdict(self, store: Store) -> str:
        """The answer in words."""
        ranking = self.goal.ranking
        return verdict(self.predictions(store), ranking.predictor, self.goal.target, ranking.metric)


def data_steps(config: Pipeline) -> list[Step]:
    """The data set and its samples, one per repeat: what the target may have to be read from."""
    data = dataset.step(config.data)
    return [data, *(sample.step(config, r, data.ref) for r in range(config.sweep.seeds))]


def check(config: Pipeline, store: Store) -> None:
    """Raise ``LensError`` for what can be known to be wrong before a server or worker starts."""
    ranking.check(config)
    if config.heavy_tails.enabled:
        check_installed()
    overlap.check(config)
    data_steps(config)
    sources.check(config.data)
    _models(config, store)


def make_plan(config: Pipeline, store: Store) -> Plan:
    """The plan of ``config``. Makes the data set first when the target is all of it.

    Raises ``LensError`` as ``check`` does, and for sizes beyond the data where it is at hand.
    """
    ranking.check(config)
    config = models.pinned(config)
    data, *samples = data_steps(config)
    repeats = range(config.sweep.seeds)
    found = _models(config, store)
    target = _target(config, store, data, samples[0])
    sizes = _sizes(config, target)
    token_steps = {m.name: tokens.step(config, m, data.ref) for m in found}
    by_name = {m.name: m for m in found}
    trials = {
        m.name: finetune.trials(config, m, token_steps[m.name].ref, samples[0].ref)
        for m in sorted(found, key=lambda m: -m.work)
        if m.settings.learning_rates
    }
    rates = {name: rate.step(by_name[name], tried) for name, tried in trials.items()}
    cells = {
        Cell(m.name, size, repeat): finetune.step(
            config,
            m,
            size,
            repeat,
            token_steps[m.name].ref,
            samples[repeat].ref,
            rates[m.name].ref if size and m.name in rates else None,
        )
        for size in sizes
        for m in sorted(found, key=lambda m: -m.work)
        for repeat in repeats
    }
    deltas = {
        cell: delta.step(step)
        for cell, step in cells.items()
        if cell.size in config.curvature.sizes
    }
    curvatures = {
        cell: curvature.step(
            config,
            by_name[cell.candidate],
            cell.size,
            cell.repeat,
            moved,
            token_steps[cell.candidate].ref,
            samples[cell.repeat].ref,
        )
        for cell, moved in deltas.items()
    }
    return Plan(
        config=config,
        target=target,
        models=found,
        dataset=data,
        samples=tuple(samples),
        drift=drift.step(config.sweep.sizes, data.ref, samples[0].ref),
        tokens=token_steps,
        probes=_probes(config, store, found, cells, token_steps, samples[0]),
        trials=trials,
        rates=rates,
        cells=cells,
        kernels={
            m.name: kernel.step(config, m, token_steps[m.name].ref, samples[0].ref)
            for m in found
            if config.kernel.enabled
        },
        overlaps={
            m.name: step
            for m in found
            if config.kernel.enabled
            and (step := overlap.step(config, m, token_steps[m.name].ref, samples[0].ref))
        },
        heavy_tails={m.name: heavy_tails.step(m) for m in found}
        if config.heavy_tails.enabled
        else {},
        past=past.find(store, data.ref) if config.ranking.prior == "store" else {},
        curvatures=curvatures,
        deltas={c: step for c, step in deltas.items() if not store.has(curvatures[c].ref)},
    )


def conclude(
    name: str,
    plan: Plan,
    store: Store,
    failed: Iterable[tuple[str, str]],
    chosen: Iterable[Cell],
    decisions: Sequence[Ref],
) -> Conclusion:
    """Curve, laws, ranking, checks and report of ``name`` over those ``chosen`` cells that are in
    the store, and what else of the plan is."""

    def made(kind: str, steps: Mapping[Any, Step]) -> dict[str, Ref]:
        refs = {str(label): step.ref for label, step in steps.items() if store.has(step.ref)}
        return roles(kind, refs)

    cells = {cell: plan.cells[cell] for cell in chosen}
    goal = Goal.of(name, plan.config, plan.target)
    present = {cell: step.ref for cell, step in cells.items() if store.has(step.ref)}
    curves = curve.step(present, plan.models)
    told = {role: ref for role, ref in plan.told.items() if store.has(ref)}
    kernels = roles("kernel", labelled(told, "kernel"))
    bounds = made("curvature", {c: s for c, s in plan.curvatures.items() if c in cells})
    drifts = {"drift": plan.drift.ref} if store.has(plan.drift.ref) else {}
    decided = roles("decision", {str(i): ref for i, ref in enumerate(decisions)})
    laws = law.step(goal, {"curve": curves.ref, **kernels})
    rates = made("rate", plan.rates)
    answers = prediction.steps(goal, {"curve": curves.ref, **told, **decided})
    costs = {**told, **bounds, **rates}
    ranks = ranking.step(goal, {"curve": curves.ref, **costs, **decided}, answers)
    overlaps = made("overlap", plan.overlaps)
    looked = plan.inspection(store)
    evidence = {**kernels, **overlaps, **bounds, **drifts, **made("cell", cells)}
    paces = {n: probe.at_hand(store, step) for n, step in plan.probes.items()}
    evidence |= made("probe", {name: step for name, step in paces.items() if step})
    evidence |= {"inspection": looked.ref} | rates
    beside = (crossing.step(goal, {"law": laws.ref, **bounds}),) if bounds else ()
    evidence |= {step.stage: step.ref for step in beside}
    before = (curves, looked, *answers.values())
    return close(goal, curves.ref, laws, ranks, decided, evidence, failed, before, beside)


def close(
    goal: Goal,
    curves: Ref,
    laws: Step,
    ranks: Step,
    decided: Mapping[str, Ref],
    evidence: Mapping[str, Ref],
    failed: Iterable[tuple[str, str]],
    before: tuple[Step, ...] = (),
    beside: tuple[Step, ...] = (),
) -> Conclusion:
    """Checks and report over a ranking; ``evidence`` is what else they show, ``decided`` a policy's
    decisions."""
    upstream = {"curve": curves, "law": laws.ref, "ranking": ranks.ref, **decided}
    upstream |= {role: ref for role, ref in evidence.items() if ref.stage in checks.READS}
    findings = checks.step(goal, upstream)
    page = report.step(goal, {**upstream, "checks": findings.ref, **evidence}, list(failed))
    return Conclusion(goal, curves, laws, ranks, findings, page, before, beside)


def _models(config: Pipeline, store: Store) -> tuple[Model, ...]:
    return tuple(models.resolve(config, candidate, store) for candidate in config.candidates)


def _probes(
    config: Pipeline,
    store: Store,
    found: Sequence[Model],
    cells: Mapping[Cell, Step],
    tokens: Mapping[str, Step],
    first_sample: Step,
) -> dict[str, Step]:
    """A finished sweep is not probed on yet another machine."""
    missing = {cell.candidate for cell, step in cells.items() if not store.has(step.ref)}
    steps = {m.name: probe.step(config, m, tokens[m.name].ref, first_sample.ref) for m in found}
    known = {name: probe.at_hand(store, step) for name, step in steps.items()}
    chosen = {name: step if name in missing else known[name] for name, step in steps.items()}
    return {name: step for name, step in chosen.items() if step}


def _sizes(config: Pipeline, target: int) -> list[int]:
    """All sizes of the cells, smallest first: what a cut-short sweep leaves is then useful."""
    sizes = set(config.sweep.sizes)
    if config.sweep.zero_shot:
        sizes.add(0)
    if config.sweep.measure_target:
        sizes.add(target)
    return sorted(sizes)


def _target(config: Pipeline, store: Store, data: Step, first_sample: Step) -> int:
    """The target as a number of examples, checked against the data where that is at hand."""
    known = config.sweep.target
    if known == "full":
        for step in (data, first_sample):
            make(store.root, step.recipe, step.hints)
    if store.has(data.ref) and store.has(first_sample.ref):
        kept = len(sample.rows(store, first_sample.ref, "train"))
        available = kept + dataset.unkept(store, data.ref)
        known = available if known == "full" else known
        sampling.check_sizes(available, [known])
        trained = [known] if config.sweep.measure_target else []
        sampling.check_sizes(available, [*config.sweep.sizes, *trained], kept)
    assert known != "full"
    return known

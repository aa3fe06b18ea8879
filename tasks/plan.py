"""Every artefact of a pipeline by name, before anything is computed.

A key is made of parameters and other keys, never of contents, so the whole sweep is known at once:
``plan`` prints it, ``status`` looks it up, ``run`` makes what is missing, ``gc`` keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lensllm.config import Pipeline
from lensllm.data import sampling
from lensllm.store import Ref, Store
from tasks import (
    curvature,
    curve,
    dataset,
    drift,
    finetune,
    kernel,
    law,
    models,
    ranking,
    report,
    sample,
    tokens,
)
from tasks.cell import Cell
from tasks.models import Model
from tasks.stage import Step, make


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
    cells: dict[Cell, Step]
    kernels: dict[str, Step]  # by candidate; empty when switched off
    curvatures: dict[Cell, Step]

    @property
    def observed(self) -> tuple[int, ...]:
        """The sizes that curves are fitted to: neither D = 0 nor the measured target."""
        return self.config.sweep.sizes

    @property
    def steps(self) -> list[Step]:
        """Everything to make, upstream first."""
        # The heaviest candidates first: their cells are then not what everybody waits for.
        making = [s for m in sorted(self.models, key=lambda m: -m.work) for s in m.steps]
        order = [self.dataset, *self.samples, *making, *self.tokens.values(), self.drift]
        order += [*self.kernels.values(), *self.cells.values(), *self.curvatures.values()]
        once: dict[Ref, Step] = {}
        for step in order:
            once.setdefault(step.ref, step)
        return list(once.values())


@dataclass(frozen=True)
class Conclusion:
    """The small stages after the sweep, over the cells that finished."""

    curve: Step
    law: Step
    ranking: Step
    report: Step

    @property
    def steps(self) -> list[Step]:
        return [self.curve, self.law, self.ranking, self.report]


def data_steps(config: Pipeline) -> list[Step]:
    """The data set and its samples, one per repeat: what the target may have to be read from."""
    data = dataset.step(config.data)
    return [data, *(sample.step(config, r, data.ref) for r in range(config.sweep.seeds))]


def check(config: Pipeline, store: Store) -> None:
    """Raise ``LensError`` for what can be known to be wrong before a server or worker starts."""
    ranking.check(config)
    data_steps(config)
    _models(config, store)


def make_plan(config: Pipeline, store: Store) -> Plan:
    """The plan of ``config``. Makes the data set first when the target is all of it.

    Raises ``LensError`` as ``check`` does, and for sizes beyond the data where it is at hand.
    """
    ranking.check(config)
    data, *samples = data_steps(config)
    repeats = range(config.sweep.seeds)
    found = tuple(
        models.resolve(candidate, config.data.max_tokens, store) for candidate in config.candidates
    )
    target = _target(config, store, data, samples[0])
    sizes = _sizes(config, target)
    token_steps = {m.name: tokens.step(config, m, data.ref) for m in found}
    cells = {
        Cell(m.name, size, repeat): finetune.step(
            config, m, size, repeat, token_steps[m.name].ref, samples[repeat].ref
        )
        for size in sizes
        for m in sorted(found, key=lambda m: -m.work)
        for repeat in repeats
    }
    by_name = {m.name: m for m in found}
    return Plan(
        config=config,
        target=target,
        models=found,
        dataset=data,
        samples=tuple(samples),
        drift=drift.step(config.sweep.sizes, data.ref, samples[0].ref),
        tokens=token_steps,
        cells=cells,
        kernels={
            m.name: kernel.step(config, m, token_steps[m.name].ref, samples[0].ref)
            for m in found
            if config.kernel.enabled
        },
        curvatures={
            cell: curvature.step(
                config,
                by_name[cell.candidate],
                cell.size,
                cell.repeat,
                step.ref,
                token_steps[cell.candidate].ref,
                samples[cell.repeat].ref,
            )
            for cell, step in cells.items()
            if cell.size in config.curvature.sizes
        },
    )


def conclude(name: str, plan: Plan, store: Store, failed: Iterable[tuple[str, str]]) -> Conclusion:
    """Curve, laws, ranking and report of ``name`` over what is in the store."""
    cells = {c: s.ref for c, s in plan.cells.items() if store.has(s.ref)}
    kernels = {n: s.ref for n, s in plan.kernels.items() if store.has(s.ref)}
    curvatures = {str(c): s.ref for c, s in plan.curvatures.items() if store.has(s.ref)}
    curves = curve.step(cells)
    laws = law.step(plan.config, curves.ref, kernels)
    ranks = ranking.step(plan.config, plan.target, curves.ref, kernels, curvatures)
    upstream = {
        "curve": curves.ref,
        "law": laws.ref,
        "ranking": ranks.ref,
        **({"drift": plan.drift.ref} if store.has(plan.drift.ref) else {}),
        **{f"cell:{cell}": ref for cell, ref in cells.items()},
        **{f"kernel:{name}": ref for name, ref in kernels.items()},
        **{f"curvature:{cell}": ref for cell, ref in curvatures.items()},
    }
    page = report.step(name, plan.config, plan.target, upstream, list(failed))
    return Conclusion(curves, laws, ranks, page)


def _models(config: Pipeline, store: Store) -> tuple[Model, ...]:
    longest = config.data.max_tokens
    return tuple(models.resolve(candidate, longest, store) for candidate in config.candidates)


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
    if store.has(first_sample.ref):
        available = len(sample.rows(store, first_sample.ref, "train"))
        known = available if known == "full" else known
        sampling.check_sizes(available, [*config.sweep.sizes, known])
    assert known != "full"
    return known

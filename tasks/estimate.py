"""What a run will compute and cost, told before a second of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lensllm.errors import ModelError
from lensllm.models import cost, load, prepare, zoo
from lensllm.models.batch import Example
from lensllm.store import Ref, Store
from tasks.cell import Cell
from tasks.finetune import passes
from tasks.models import Model
from tasks.plan import Plan
from tasks.stage import Step

# Before any cell was measured: what the demo reaches on one CPU core, rounded down.
_FLOPS_PER_SECOND = 3e10
# Tokens of prompt and completion of the embedded data, where no tokens are at hand yet.
_USUAL_TOKENS = (28, 21)
# Weights, gradients, two moments of AdamW and the best weights kept, in float32.
_BYTES_PER_WEIGHT = 20
_BYTES_OF_A_WORKER = 600e6  # torch, transformers and the tokenised data


@dataclass(frozen=True)
class CandidateForecast:
    """One candidate's share of a run."""

    name: str
    parameters: int
    cells: int
    cached: int
    flops_to_run: float
    flops_sweep: float  # of all cells up to the budget, cached or not
    flops_full: float  # of fine-tuning on the target once
    runs_with: str  # precision and attention, and why


@dataclass(frozen=True)
class Forecast:
    """What ``lensllm plan`` prints."""

    target: int
    steps: Mapping[str, tuple[int, int]]  # stage → (artefacts, of which cached)
    candidates: tuple[CandidateForecast, ...]
    slots: int
    flops_per_second: float  # of one slot
    measured_pace: bool  # from finished cells rather than assumed
    peak_bytes: float  # of all slots together
    to_pretrain: int  # embedded candidates that must be made first
    to_download_bytes: float  # of models on the hub
    at_most: bool  # a sweep policy will ask for fewer cells

    @property
    def minutes(self) -> float:
        """Of the cells still to run."""
        flops = sum(c.flops_to_run for c in self.candidates)
        return flops / self.flops_per_second / self.slots / 60

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "target": self.target,
            "stages": {s: {"artefacts": n, "cached": c} for s, (n, c) in self.steps.items()},
            "candidates": [vars(c) for c in self.candidates],
            "to_run": sum(n - c for n, c in self.steps.values()),
            "flops_to_run": sum(c.flops_to_run for c in self.candidates),
            "flops_sweep": sum(c.flops_sweep for c in self.candidates),
            "flops_full": sum(c.flops_full for c in self.candidates),
            "expected_minutes": self.minutes,
            "expected_peak_bytes": self.peak_bytes,
            "to_download_bytes": self.to_download_bytes,
            "slots": self.slots,
            "at_most": self.at_most,
        }


def forecast(plan: Plan, store: Store, slots: int) -> Forecast:
    """Forecast a run of ``plan`` from shapes, token lengths and the pace of finished cells."""
    shapes = {model.name: _shape(model) for model in plan.models}
    examples = {model.name: _usual_example(plan, model, store) for model in plan.models}
    steps: dict[str, tuple[int, int]] = {}
    for step in plan.steps:
        made, cached = steps.get(step.stage, (0, 0))
        steps[step.stage] = (made + 1, cached + store.has(step.ref))
    pace = _pace(plan, store)
    candidates = tuple(
        _candidate(plan, store, model, *shapes[model.name], examples[model.name])
        for model in plan.models
    )
    to_run = [c for c in candidates if c.cached < c.cells]
    largest = max((c.parameters for c in to_run), default=0)
    at_once = min(slots, sum(c.cells - c.cached for c in to_run))
    return Forecast(
        target=plan.target,
        steps=steps,
        candidates=candidates,
        slots=slots,
        flops_per_second=pace or _FLOPS_PER_SECOND,
        measured_pace=pace is not None,
        peak_bytes=at_once * (_BYTES_PER_WEIGHT * largest + _BYTES_OF_A_WORKER),
        to_pretrain=len(_to_make("pretrain", plan, store)),
        to_download_bytes=sum(s.weight for s in _to_make("download", plan, store)),
        at_most=plan.config.sweep.policy != "all",
    )


def _to_make(stage: str, plan: Plan, store: Store) -> list[Step]:
    """The steps of ``stage`` that make a candidate and are still to run."""
    steps = [step for model in plan.models for step in model.steps if step.stage == stage]
    return [step for step in steps if not store.has(step.ref)]


def minutes(plans: Sequence[Plan], store: Store, slots: int) -> float:
    """Of the cells of all ``plans`` that are still to run, each counted once; the plans have the
    same candidates."""
    shapes = {model.name: _shape(model)[0] for model in plans[0].models}
    flops: dict[Ref, float] = {}
    for plan in plans:
        examples = {model.name: _usual_example(plan, model, store) for model in plan.models}
        for cell, ref in _to_train(plan, store).items():
            shape, example = shapes[cell.candidate], examples[cell.candidate]
            flops[ref] = _flops(plan, shape, cell.size, example)
    pace = next(filter(None, (_pace(plan, store) for plan in plans)), _FLOPS_PER_SECOND)
    return sum(flops.values()) / pace / slots / 60


def _to_train(plan: Plan, store: Store) -> dict[Cell, Ref]:
    """The cells not there, and those whose weights nobody kept for their curvature."""
    deltas = {cell: step for cell, step in plan.deltas.items() if not store.has(step.ref)}
    missing = {cell: step for cell, step in plan.cells.items() if not store.has(step.ref)}
    return {cell: step.ref for cell, step in (deltas | missing).items()}


def _candidate(
    plan: Plan, store: Store, model: Model, shape: cost.Shape, parameters: int, example: Example
) -> CandidateForecast:
    cells = {c: s for c, s in plan.cells.items() if c.candidate == model.name}
    flops = {cell: _flops(plan, shape, cell.size, example) for cell in cells}
    missing = [cell for cell, step in cells.items() if not store.has(step.ref)]
    return CandidateForecast(
        name=model.name,
        parameters=parameters,
        cells=len(cells),
        cached=len(cells) - len(missing),
        flops_to_run=sum(flops[c] for c in _to_train(plan, store) if c.candidate == model.name),
        flops_sweep=sum(f for c, f in flops.items() if c.size <= plan.config.sweep.max),
        flops_full=_flops(plan, shape, plan.target, example),
        runs_with=_runs_with(model, parameters, plan.config.engine.device),
    )


def _flops(plan: Plan, shape: cost.Shape, size: int, example: Example) -> float:
    return cost.forward_flops(shape, [example]) * passes(plan.config, size)


def _shape(model: Model) -> tuple[cost.Shape, int]:
    with torch.device("meta"):
        empty = load.from_config(_settings(model))
    return cost.shape_of(empty), sum(p.numel() for p in empty.parameters())


def _settings(model: Model) -> Any:
    """The transformers configuration."""
    if model.specification:
        return zoo.config(model.specification)
    return load.load_config(model.configuration or model.folder)


def _runs_with(model: Model, parameters: int, wanted: str) -> str:
    try:
        device = load.choose_device(wanted)
        chosen = prepare.choose(_settings(model), parameters, model.recipe, device)
    except ModelError as error:  # the run may be meant for another machine
        return str(error)
    return f"{model.recipe.method}, {chosen.precision}; {chosen.attention}"


def _usual_example(plan: Plan, model: Model, store: Store) -> Example:
    """An example of the mean prompt and completion length."""
    step = plan.tokens[model.name]
    prompt, completion = _USUAL_TOKENS
    if store.has(step.ref):
        table = store.table(step.ref, "examples")
        prompt = round(table["prompt_ids"].map(len).mean())
        completion = round(table["completion_ids"].map(len).mean())
    return Example([0] * prompt, [0] * completion)


def _pace(plan: Plan, store: Store) -> float | None:
    """FLOPs per second of the finished cells; None when there are none."""
    cells = [store.table(s.ref, "cell") for s in plan.cells.values() if store.has(s.ref)]
    flops = sum(float((c["train_flops"] + c["evaluation_flops"]).iloc[0]) for c in cells)
    seconds = sum(float(c["seconds"].iloc[0]) for c in cells)
    return flops / seconds if seconds else None

"""The forecast of a run: what it will compute and cost, before a second of training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from lensllm.core.errors import ModelError
from lensllm.models import adapters, checkpoint, cost, load, memory, prepare
from lensllm.models.batch import Example
from lensllm.models.zoo.pretrain import model_config
from lensllm.store.artifacts import Ref
from lensllm.training.throughput import Throughput
from tasks.base.goal import Goal
from tasks.base.model import Model
from tasks.base.plan import Plan
from tasks.base.step import Cell, Label, Step, Trial
from tasks.stages import download, finetune, probe

# Before any cell was measured: what the demo reaches on one CPU core, rounded down.
_FLOPS_PER_SECOND = 3e10
# Tokens of prompt and completion of the embedded data, where no tokens are at hand yet.
_USUAL_TOKENS = (28, 21)
_BYTES_OF_A_WORKER = 600e6  # torch, transformers and the tokenised data

Source = Literal["probe", "cells", "assumed"]


@dataclass(frozen=True)
class CandidateForecast:
    """One candidate's share of a run."""

    name: str
    parameters: int
    cells: int
    cached: int
    flops_to_run: float
    flops_sweep: float  # of all cells up to the budget, cached or not, its kernel and curvature
    flops_full: float  # of fine-tuning on the target once
    runs_with: str  # precision and attention, and why
    seconds_to_run: float  # one cell after the other
    peak_bytes: float  # of a worker with one cell of it
    throughput_source: Source  # where the seconds are from
    trunk_bytes: float  # of the trunk states kept on the disk


@dataclass(frozen=True)
class Forecast:
    """Predicted cost of a pipeline, printed by ``lensllm plan``."""

    target: int
    steps: Mapping[str, tuple[int, int]]  # stage → (artefacts, of which cached)
    candidates: tuple[CandidateForecast, ...]
    slots: int
    peak_bytes: float  # of all slots together
    to_pretrain: int  # embedded candidates that must be made first
    to_download_bytes: float  # of models on the hub
    free_bytes: float  # on the disk of the artifacts folder
    epochs: int  # at the target, for one at the sizes of a trunk
    at_most: bool  # a sweep policy will ask for fewer cells
    uncounted: int  # cells whose curvature is not in ``flops_sweep``: it is known when measured

    @property
    def minutes(self) -> float:
        """Time of the cells still to run."""
        return sum(c.seconds_to_run for c in self.candidates) / self.slots / 60

    @property
    def trunk_bytes(self) -> float:
        """Bytes of all trunk states on the disk."""
        return sum(c.trunk_bytes for c in self.candidates)

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
            "trunk_bytes": self.trunk_bytes,
            "slots": self.slots,
            "at_most": self.at_most,
        }


def forecast(plan: Plan, slots: int) -> Forecast:
    """Forecast a run from probes; without one, from shapes, token lengths and finished cells."""
    store = plan.store
    steps: dict[str, tuple[int, int]] = {}
    for step in plan.steps:
        made, cached = steps.get(step.stage, (0, 0))
        steps[step.stage] = (made + 1, cached + store.has(step.ref))
    usual = _flops_per_second(plan)
    candidates = tuple(_Outlook(plan, model, usual).forecast() for model in plan.models)
    to_run = [c for c in candidates if c.cached < c.cells]
    at_once = min(slots, sum(c.cells - c.cached for c in to_run))
    return Forecast(
        target=plan.target,
        steps=steps,
        candidates=candidates,
        slots=slots,
        peak_bytes=at_once * max((c.peak_bytes for c in to_run), default=0.0),
        to_pretrain=len(_to_make("pretrain", plan)),
        to_download_bytes=sum(
            s.weight for s in _to_make("download", plan) if s.weight > download.THERE
        ),
        free_bytes=shutil.disk_usage(store.root).free,
        epochs=Goal.of("", plan.config, plan.target).epochs,
        at_most=plan.config.sweep.policy != "all",
        uncounted=sum(not store.has(step.ref) for step in plan["curvature"].values()),
    )


def _to_make(stage: str, plan: Plan) -> list[Step]:
    """The steps of ``stage`` that are still to run."""
    return [step for step in plan[stage].values() if not plan.store.has(step.ref)]


def minutes(plans: Sequence[Plan], slots: int) -> float:
    """Minutes of the cells still to run in ``plans`` of the same candidates, each counted once."""
    usual = next(filter(None, map(_flops_per_second, plans)), None)
    seconds: dict[Ref, float] = {}
    for plan in plans:
        for model in plan.models:
            outlook = _Outlook(plan, model, usual)
            seconds |= {ref: outlook.seconds(size) for ref, size in outlook.to_train.items()}
    return sum(seconds.values()) / slots / 60


def peak_bytes(plan: Plan, step: Step) -> float | None:
    """Memory of a step that trains, as its candidate's probe measured it; None without a probe."""
    wanted = plan["probe"].get(str(step.hints.get("candidate")))
    if step.stage not in ("finetune", "delta") or wanted is None:
        return None
    found = probe.find_finished(plan.store, wanted)
    return probe.read(plan.store, found.ref).peak_memory_bytes if found else None


class _Outlook:
    """The cost of one candidate's cells, by the examples that they read."""

    def __init__(self, plan: Plan, model: Model, usual: float | None) -> None:
        self.plan, self.store, self.model = plan, plan.store, model
        wanted = plan["probe"].get(model.name)
        probed = probe.find_finished(self.store, wanted) if wanted else None
        self.throughput = probe.read(self.store, probed.ref) if probed else self._assumed(usual)
        self.source: Source = "probe" if probed else "cells" if usual else "assumed"

    def forecast(self) -> CandidateForecast:
        cells = {c: s for c, s in self.plan.cells.items() if c.candidate == self.model.name}
        paid = sum(self.flops(c.size) for c in cells if c.size <= self.plan.config.sweep.max)
        trials = self.plan.trials(self.model.name)
        paid += max(len(trials) - 1, 0) * self.flops(self.plan.observed[0])
        return CandidateForecast(
            name=self.model.name,
            parameters=self.parameters,
            cells=len(cells),
            cached=sum(self.store.has(step.ref) for step in cells.values()),
            flops_to_run=sum(map(self.flops, self.to_train.values())),
            flops_sweep=paid + self._diagnostics(),
            flops_full=self.flops(self.plan.target),
            runs_with=self._runs_with(),
            seconds_to_run=sum(map(self.seconds, self.to_train.values())),
            peak_bytes=self.throughput.peak_memory_bytes,
            throughput_source=self.source,
            trunk_bytes=self._trunk_bytes(),
        )

    def flops(self, size: int) -> float:
        """FLOPs of one cell."""
        return self.throughput.flops(*self._example_counts(size))

    def seconds(self, size: int) -> float:
        """Seconds of one cell."""
        return self.throughput.seconds(*self._example_counts(size))

    def _example_counts(self, size: int) -> tuple[int, int]:
        return finetune.example_counts(self.plan.config, self.model.settings, size)

    @cached_property
    def to_train(self) -> dict[Ref, int]:
        """Sizes of the runs still to make: cells, learning-rate trials, and lost weights."""
        plan, name = self.plan, self.model.name
        deltas = {
            cell: step
            for cell, step in plan["delta"].items()
            if isinstance(cell, Cell) and not self.store.has(step.ref)
        }
        steps = {c: s for c, s in {**plan.cells, **deltas}.items() if c.candidate == name}
        trials = plan.trials(name)
        smallest = plan.observed[0]
        if trials and Cell(name, smallest, 0) not in deltas:
            del steps[Cell(name, smallest, 0)]  # is the chosen one of the trials
        sizes = {step.ref: cell.size for cell, step in steps.items()}
        sizes |= {step.ref: smallest for step in trials.values()}
        return {ref: size for ref, size in sizes.items() if not self.store.has(ref)}

    @cached_property
    def _settings(self) -> Any:
        """The transformers configuration."""
        if self.model.specification:
            return model_config(self.model.specification)
        return load.load_config(self.model.configuration or self.model.folder)

    @cached_property
    def empty(self) -> Any:
        """The candidate on the meta device, without weights, with adapters if it gets some."""
        settings = self.model.settings
        with torch.device("meta"):
            model = load.from_config(self._settings)
            return adapters.add(model, settings.lora, 0) if settings.method == "lora" else model

    @cached_property
    def parameters(self) -> int:
        """Weights, adapters not among them."""
        with torch.device("meta"):
            count = load.count_parameters(load.from_config(self._settings))
        if not self.model.steps:  # its weights are there
            checkpoint.check_weights(self.model.folder, count)
        return count

    def _trunk_bytes(self) -> float:
        """Weights and two moments in float32, one state a repeat; where all are kept, all sizes."""
        sweep = self.plan.config.sweep
        if sweep.schedule != "trunk":
            return 0.0
        states = sweep.seeds * (len(sweep.sizes) if sweep.keep_trunks else 1)
        return 12.0 * states * load.count_trainable(self.empty)

    def _runs_with(self) -> str:
        """Method, precision and attention, with reasons."""
        settings = self.model.settings
        try:
            device = load.choose_device(self.plan.config.engine.device)
            chosen = prepare.choose_settings(self._settings, self.parameters, settings, device)
        except ModelError as error:  # the run may be meant for another machine
            return str(error)
        return f"{settings.method}, {chosen.precision}; {chosen.attention}"

    def _assumed(self, usual: float | None) -> Throughput:
        """From shapes, where nothing was measured; ``usual`` is the FLOPs per second of others."""
        shape, example = cost.shape_of(self.empty), self._usual_example()
        batch = [example] * self.model.settings.batch_size
        return Throughput(
            train_flops_per_example=cost.train_flops(shape, [example], 1),
            evaluation_flops_per_example=cost.forward_flops(shape, [example]),
            train_flops_per_second=usual or _FLOPS_PER_SECOND,
            evaluation_flops_per_second=usual or _FLOPS_PER_SECOND,
            load_seconds=0.0,
            peak_memory_bytes=_BYTES_OF_A_WORKER + memory.memory(self.empty, batch).total,
        )

    def _usual_example(self) -> Example:
        """An example of the mean prompt and completion length."""
        step = self.plan["tokens"][self.model.name]
        prompt, completion = _USUAL_TOKENS
        if self.store.has(step.ref):
            table = self.store.table(step.ref, "examples")
            prompt = round(table["prompt_ids"].map(len).mean())
            completion = round(table["completion_ids"].map(len).mean())
        return Example([0] * prompt, [0] * completion)

    def _diagnostics(self) -> float:
        """FLOPs of the stages that train no cell, foreseen or, of what is finished, counted."""
        plan, name, total = self.plan, self.model.name, 0.0
        for stage in plan.stages.values():
            if stage.flops is None or stage.name == "rate":  # its trials are counted as cells
                continue
            mine = [s for label, s in plan[stage.name].items() if _candidate(label) == name]
            if stage.expected_flops and mine:
                total += stage.expected_flops(plan, self.model, self.throughput)
            else:
                total += sum(stage.flops(self.store, s.ref) for s in mine if self.store.has(s.ref))
        return total


def _candidate(label: Label) -> str:
    return label.candidate if isinstance(label, Cell | Trial) else str(label)


def _flops_per_second(plan: Plan) -> float | None:
    """FLOPs per second of the finished cells; None when there are none."""
    cells = [plan.store.table(ref, "cell") for ref in plan.present("finetune").values()]
    flops = sum(float((c["train_flops"] + c["evaluation_flops"]).iloc[0]) for c in cells)
    seconds = sum(float(c["seconds"].iloc[0]) for c in cells)
    return flops / seconds if seconds else None

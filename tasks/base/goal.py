"""The ranking that the stages after the sweep make, for a pipeline or a replayed table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lensllm.config.sections import Law, Pipeline, Policy, Ranking, public
from lensllm.laws.epochs import effective_size
from lensllm.predictors import (
    PREDICTORS,
    LensLLM,
    Mixture,
    Prior,
    Registry,
    reads,
    settings,
    with_settings,
)
from lensllm.selection.answers import Question


@dataclass(frozen=True)
class Goal:
    """One ranking to be made."""

    name: str  # of the pipeline or table
    target: int
    budgets: tuple[int, ...]  # ascending; the last is the one the answer is for
    ranking: Ranking
    law: Law
    seed: int
    policy: Policy
    settings: Mapping[str, Any]  # the whole configuration, for the report, without secrets
    epochs: int = 1  # at the target for each at the other sizes

    @classmethod
    def of(cls, name: str, config: Pipeline, target: int) -> Goal:
        """The goal of a pipeline: its one budget is the largest subset it pays for."""
        return cls(
            name=name,
            target=target,
            budgets=(config.sweep.max,),
            ranking=config.ranking,
            law=config.law,
            seed=config.seed,
            policy=config.sweep.policy,
            settings=public(config),
            epochs=config.finetune.epochs if config.sweep.schedule == "trunk" else 1,
        )

    @property
    def target_params(self) -> dict[str, int]:
        """The target, and its worth in examples that are read once where epochs differ."""
        if self.epochs == 1:
            return {"target": self.target}
        effective = effective_size(self.target, self.epochs)
        return {"target": self.target, "epochs": self.epochs, "effective_target": effective}

    @property
    def budget(self) -> int:
        return self.budgets[-1]

    @property
    def curve_params(self) -> dict[str, Any]:
        """The parameters of ``tasks.stages.curve.read``, in the key of every stage that uses it."""
        return {"metric": self.ranking.metric, "budget": self.budget}

    @property
    def registry(self) -> Registry:
        """The predictors by name, with their settings in this pipeline or replay."""
        return configured(self.law)

    @property
    def question_params(self) -> dict[str, Any]:
        """The parameters of ``read_question`` but for the predictors."""
        return {
            **self.target_params,
            "budgets": list(self.budgets),
            "reference": self.ranking.predictor,
            "draws": self.ranking.draws,
            "seed": self.seed,
        }

    def predictor_params(self, names: Iterable[str]) -> dict[str, Any]:
        """Version and settings of the predictors ``names``, as they stand in keys."""
        params: dict[str, Any] = {}
        for name in names:
            predictor = self.registry[name]
            own = (
                {"parts": list(predictor.parts)}
                if isinstance(predictor, Mixture)
                else {"settings": settings(predictor)}
            )
            params[name] = {"version": predictor.version, **own}
        return params


def configured(law: Law) -> Registry:
    """The predictors with the settings of the configuration's section ``law``."""
    changes: dict[str, dict[str, Any]] = {"ats": {"gamma": law.gamma, "tau": law.tau}}
    for name, predictor in PREDICTORS.items():
        if isinstance(predictor, LensLLM):
            changes[name] = {"kernel_scale": law.scale}
    return with_settings(changes)


def read_registry(params: Mapping[str, Any], prior: Prior) -> Registry:
    """The predictors with the settings in the parameters of a stage; ``prior`` is HRB's."""
    stated = params["predictors"].items()
    changes = {name: dict(about["settings"]) for name, about in stated if "settings" in about}
    for name in changes:
        if "past" in reads(name):
            changes[name]["prior"] = prior
    return with_settings(changes)


def read_question(params: Mapping[str, Any], registry: Registry) -> Question:
    """The question in the parameters of a stage, asked of its predictors."""
    return Question(
        target=params.get("effective_target", params["target"]),
        budgets=tuple(params["budgets"]),
        predictors=tuple(name for name in registry if name in params["predictors"]),
        reference=params["reference"],
        seed=params["seed"],
        draws=params["draws"],
        registry=registry,
    )

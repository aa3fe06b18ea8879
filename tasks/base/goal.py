"""What the stages after the sweep are asked for: the same for a pipeline and a replayed table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lensllm.config.sections import Law, Pipeline, Policy, Ranking, public
from lensllm.selection.ranking import Question


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
    settings: Mapping[str, Any]  # all there are, for the report, without secrets

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
        )

    @property
    def budget(self) -> int:
        return self.budgets[-1]

    @property
    def curve_params(self) -> dict[str, Any]:
        """What ``tasks.stages.curve.read`` needs, a part of the key of every stage that uses it."""
        return {
            "metric": self.ranking.metric,
            "budget": self.budget,
            "scale": self.law.scale,
            "gamma": self.law.gamma,
            "tau": self.law.tau,
        }

    @property
    def question_params(self) -> dict[str, Any]:
        """What ``lensllm.selection.ranking.Question`` needs beside the predictors' names."""
        return {
            "target": self.target,
            "budgets": list(self.budgets),
            "reference": self.ranking.predictor,
            "draws": self.ranking.draws,
            "seed": self.seed,
        }


def read_question(params: Mapping[str, Any]) -> Question:
    """The question in the parameters of a stage."""
    return Question(
        target=params["target"],
        budgets=tuple(params["budgets"]),
        predictors=tuple(params["predictors"]),
        reference=params["reference"],
        seed=params["seed"],
        draws=params["draws"],
    )

"""The preflight of a pipeline: what ``lensllm plan`` finds in the data without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lensllm.core.errors import LensError
from tasks.base.model import BUILTIN
from tasks.base.plan import Plan
from tasks.base.step import Step
from tasks.planning.make import make
from tasks.stages import inspection


@dataclass(frozen=True)
class Preflight:
    """The findings about the data, and the candidates whose tokens could not be inspected."""

    findings: tuple[tuple[str, str], ...]  # code and sentence
    failed: tuple[tuple[str, str], ...]  # candidate, and why its tokens cannot be made
    unchecked: tuple[str, ...]  # candidates whose tokenizer a run makes first

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``plan --json``."""
        return {
            "checks": [{"code": code, "message": text} for code, text in self.findings],
            "failed": [{"candidate": name, "reason": why} for name, why in self.failed],
            "unchecked": list(self.unchecked),
        }


def preflight(plan: Plan) -> Preflight:
    """Make data set, samples and tokens in this process, and inspect them.

    Builtin data has no mistakes of its own: nothing is made while no tokenizer is there to read it.
    """
    store, tokens = plan.store, {str(name): step for name, step in plan["tokens"].items()}
    readable = [name for name, step in tokens.items() if _has_tokenizer(plan, step)]
    if not readable and plan.config.data.source.startswith(BUILTIN):
        return Preflight((), (), tuple(tokens))
    for step in (*plan["dataset"].values(), *plan["sample"].values()):
        make(store.root, step.recipe, step.hints)
    failed = []
    for name in readable:
        try:
            make(store.root, tokens[name].recipe, tokens[name].hints)
        except LensError as error:
            failed.append((name, str(error)))
    checked = inspection.step(plan)
    make(store.root, checked.recipe, checked.hints)
    unchecked = tuple(name for name in tokens if name not in readable)
    return Preflight(tuple(inspection.findings(store, checked.ref)), tuple(failed), unchecked)


def _has_tokenizer(plan: Plan, tokens: Step) -> bool:
    """True if the tokenizer is in the store, or a file of the user."""
    needed = set(tokens.recipe.upstream.values()) - {plan["dataset"][""].ref}
    return all(plan.store.has(ref) for ref in needed)

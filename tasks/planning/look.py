"""Look at the data before a sweep: what ``lensllm plan`` finds without training anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lensllm.core.errors import LensError
from lensllm.store.artifacts import Ref, Store
from tasks.base.models import BUILTIN
from tasks.base.stage import Step, make
from tasks.planning.plan import Plan
from tasks.stages import inspection


@dataclass(frozen=True)
class Look:
    """What was found, and of whom it could not be."""

    findings: tuple[tuple[str, str], ...]  # code and sentence
    failed: tuple[tuple[str, str], ...]  # candidate, and why its tokens cannot be made
    unseen: tuple[str, ...]  # candidates whose tokenizer a run makes first

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``plan --json``."""
        return {
            "checks": [{"code": code, "message": text} for code, text in self.findings],
            "failed": [{"candidate": name, "reason": why} for name, why in self.failed],
            "unchecked": list(self.unseen),
        }


def look(plan: Plan, store: Store) -> Look:
    """Make data set, samples and tokens in this process, and ask what there is to ask.

    Builtin data has no mistakes of its own, so while nobody can read it nothing is made.
    """
    readers = [name for name, step in plan.tokens.items() if _at_hand(plan, step, store)]
    if not readers and plan.config.data.source.startswith(BUILTIN):
        return Look((), (), tuple(plan.tokens))
    for step in (plan.dataset, *plan.samples):
        make(store.root, step.recipe, step.hints)
    failed, unseen = [], []
    for name, step in plan.tokens.items():
        if name not in readers:
            unseen.append(name)
            continue
        try:
            make(store.root, step.recipe, step.hints)
        except LensError as error:
            failed.append((name, str(error)))
    looked = plan.inspection(store)
    make(store.root, looked.recipe, looked.hints)
    return Look(tuple(inspection.findings(store, looked.ref)), tuple(failed), tuple(unseen))


def _at_hand(plan: Plan, tokens: Step, store: Store) -> bool:
    """Whether the tokenizer is there, or a file of the user's."""
    needed = set(tokens.recipe.upstream.values()) - {plan.dataset.ref}
    return all(store.has(ref) for ref in needed)


def leading_to(plan: Plan, steps: Iterable[Step]) -> list[Step]:
    """``steps`` and what of the plan they are made of, upstream first."""
    wanted: set[Ref] = {step.ref for step in steps}
    found = []
    for step in reversed(plan.groundwork):
        if step.ref in wanted:
            wanted |= set(step.recipe.upstream.values())
            found.append(step)
    return found[::-1]

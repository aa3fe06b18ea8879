"""State of a sweep, read from the store alone, so that an interrupted one continues.

With the policy *all* there is one round of every cell. Otherwise each round's cells are followed by
a decision, an artefact like any other, and that by the next round's cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lensllm.selection import policy as policies
from lensllm.selection.policy import Decision
from lensllm.store.artifacts import Ref
from tasks.base.goal import Goal
from tasks.base.plan import Plan
from tasks.base.step import Cell, Step
from tasks.stages import curve, decision


@dataclass(frozen=True)
class Sweep:
    """The rounds so far."""

    cells: tuple[Cell, ...]  # chosen so far
    steps: tuple[Step, ...]  # all that is to be made so far, in order, in the store or not
    decisions: tuple[Ref, ...]  # taken so far
    over: bool  # whether nothing is left to decide


def sweep(plan: Plan, lost: Callable[[Ref], bool]) -> Sweep:
    """The sweep as far as the store tells; a cell that is ``lost`` will not come any more."""
    return _Rounds(plan, lost).play()


class _Rounds:
    def __init__(self, plan: Plan, lost: Callable[[Ref], bool]) -> None:
        self.plan, self.store, self.lost = plan, plan.store, lost
        self.goal = Goal.of("", plan.config, plan.target)
        self.cells: list[Cell] = []
        self.steps: list[Step] = []
        self.decisions: list[Ref] = []
        self.over = True  # unless a decision is still to be taken

    def play(self) -> Sweep:
        policy, everybody = self.goal.policy, tuple(self.plan.by_name)
        sizes = self.plan.observed
        self._choose((0,), everybody)
        for places, racing in policies.play(
            policy, np.array(sizes, dtype=float), everybody, self._decide
        ):
            self._choose([sizes[place] for place in places], racing)
        if self.over:
            self._choose((self.plan.target,), everybody)
        return Sweep(tuple(self.cells), tuple(self.steps), tuple(self.decisions), self.over)

    def _choose(self, sizes: Iterable[int], candidates: tuple[str, ...]) -> None:
        for cell, step in self.plan.cells.items():
            if cell.size in sizes and cell.candidate in candidates:
                self.cells.append(cell)
                self.steps.append(step)
                self._measure(cell)

    def _measure(self, cell: Cell) -> None:
        """Add what is measured of a cell; its weights are not needed once the curvature is."""
        for name, stage in self.plan.stages.items():
            if stage.plan.per == "cell" and name != "finetune" and cell in self.plan[name]:
                step = self.plan[name][cell]
                if name != "delta" or not self.store.has(self.plan["curvature"][cell].ref):
                    self.steps.append(step)

    def _decide(self, known: int, racing: tuple[str, ...]) -> Decision | None:
        """The decision once the first ``known`` sizes are trained; None while it is not taken."""
        self.over = False
        cells = {cell: self.plan.cells[cell].ref for cell in self.cells}
        inputs = self.plan.predictor_inputs
        awaited = (*cells.values(), *inputs.values())
        if not all(self.store.has(ref) or self.lost(ref) for ref in awaited):
            return None
        cells = {cell: ref for cell, ref in cells.items() if self.store.has(ref)}
        trained = {cell.candidate for cell in cells if cell.size}
        if not trained:  # the run ends by saying why
            return None
        curves = curve.step(cells, self.plan.models)
        taken = decision.step(
            self.goal,
            self.plan.observed[known - 1],
            {"curve": curves.ref, **{role: r for role, r in inputs.items() if self.store.has(r)}},
            [name for name in racing if name in trained],
            self.decisions,
        )
        self.steps += [curves, taken]
        if not self.store.has(taken.ref):
            return None
        self.over = True
        self.decisions.append(taken.ref)
        rows = self.store.table(taken.ref, "decisions")
        return Decision(rows, rows["stop"].iloc[0])

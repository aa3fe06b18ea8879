"""What memory a step is expected to take, for engines that place jobs by it."""

from __future__ import annotations

from lensllm.store.artifacts import Store
from tasks.base.stage import Step
from tasks.planning.plan import Plan
from tasks.stages import probe


def peak_bytes(plan: Plan, store: Store, step: Step) -> float | None:
    """Of the candidate that ``step`` is about, as its probe measured it while training; None where
    there is no probe yet, and of what trains nothing."""
    wanted = plan.probes.get(str(step.hints.get("candidate")))
    if step.stage not in ("finetune", "delta") or wanted is None:
        return None
    found = probe.at_hand(store, wanted)
    return probe.read(store, found.ref).peak_memory_bytes if found else None

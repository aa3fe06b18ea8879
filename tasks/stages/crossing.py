"""crossing: the bound's own transition across each curve, beside the law's.

Key: the curvature of all cells, laws, budget, target and seed. Tables: ``candidates``,
``agreement``.
"""

from collections.abc import Mapping

from lensllm.hessian.bound import agreement_table, crossing_table
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.goal import Goal
from tasks.base.stage import Step, Work
from tasks.stages import curvature

VERSION = 1


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has law, and curvature:… by label."""
    params = {"budget": goal.budget, "target": goal.target, "seed": goal.seed}
    return Step("crossings", Recipe("crossing", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    bounds = curvature.read(work, "bound")
    fits = work.store.table(work.upstream["law"], "fits")
    rectified = fits[fits["law"] == "rectified"].set_index("candidate")["transition_size"]
    candidates = crossing_table(
        bounds, rectified.to_dict(), work.params["budget"], work.params["seed"]
    )
    smallest = int(bounds["size"].min())
    write_table(work.folder, "crossing/candidates", candidates.to_dict("records"))
    found = agreement_table(candidates, smallest, work.params["target"])
    write_table(work.folder, "crossing/agreement", found.to_dict("records"))

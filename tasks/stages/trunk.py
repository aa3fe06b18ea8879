"""trunk: weights and optimiser of a candidate after so many steps of its trunk.

Key: model, tokens, sample, settings, seed, repeat and steps, so that a branch of any size can leave
the trunk. File: ``state.safetensors``, twelve bytes per trained weight. The cell that leaves the
trunk there makes it in passing and removes the one before it; a lost one is trained again.
"""

from lensllm.store.artifacts import Ref
from tasks.base.plan import Plan
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext
from tasks.base.trunk import VERSION, states


def build(context: BuildContext) -> None:
    raise NotImplementedError("a cell makes the trunk that it leaves")


def belonging(plan: Plan) -> set[Ref]:
    """The states in the store that a cell of ``plan`` may continue, whatever the learning rate."""
    if plan.config.sweep.schedule != "trunk":
        return set()
    return {
        ref
        for model in plan.models
        for repeat in plan.repeats
        for ref in states(
            plan.store,
            {
                "recipe": model.settings.trunk_content,
                "seed": plan.config.seed,
                "repeat": repeat,
                **model.params,
            },
            plan.training_inputs(model, repeat),
            any_rate=True,
        ).values()
    }


STAGE = Stage(name="trunk", version=VERSION, plan=Planner("cell, in passing"), build=build)

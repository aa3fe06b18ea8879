"""Cells that must not count as successful, and the settings that are in their keys."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lensllm.config.sections import FineTune
from lensllm.core.errors import ModelError
from lensllm.models.load import load_model
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning.plan import make_plan
from tasks.stages import STAGES
from tests.tasks import project


def test_a_pretrained_model_whose_loss_is_not_finite_is_no_cell(tmp_path: Path):
    config = project.changed(
        project.write_inputs(tmp_path, {"narrow": 16}),
        kernel={"enabled": False},
        heavy_tails={"enabled": False},
    )
    model = load_model(tmp_path / "narrow")
    with torch.no_grad():  # finite weights whose logits overflow
        model.transformer.wte.weight.mul_(1e3)
        model.transformer.ln_f.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "narrow")
    store = Store(tmp_path / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    pretrained = plan.cells[Cell("narrow", 0, 0)]
    project.make_all(store, [step for step in plan.preparation if step.stage != "probe"])
    with pytest.raises(ModelError, match="the loss of this cell's model is not finite"):
        project.make_all(store, [pretrained])
    assert not store.has(pretrained.ref)


class LaterFineTune(FineTune):
    """Settings of fine-tuning with one more, added after cells were trained."""

    later: str = "linear"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_setting_added_later_is_in_no_key_at_its_default(
    tmp_path: Path, store: Store, method: str
):
    config = project.changed(
        project.write_inputs(tmp_path, {"narrow": 16}),
        finetune={"method": method},
        curvature={"sizes": []},
    )
    for rates in ([], [1e-3, 1e-2]):
        plan = make_plan(project.changed(config, finetune={"learning_rates": rates}), store)

        def keys(settings: FineTune, plan: Plan = plan) -> set[Ref]:
            model = replace(plan.models[0], settings=settings)
            later = Plan(STAGES, plan.config, [model], store, plan.target, {})
            steps = [*later["finetune"].values(), *later["rate"].values(), *later["probe"].values()]
            return {step.ref for step in steps}

        now = plan.models[0].settings
        same = LaterFineTune.model_validate(now.model_dump())
        other = LaterFineTune.model_validate({**now.model_dump(), "later": "cosine"})
        assert keys(same) == keys(now)
        assert not keys(other) & keys(now)

"""Cells that must not count as successful, and the settings that are in their keys."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lensllm.config.sections import FineTune
from lensllm.core.errors import ModelError
from lensllm.models.load import load_model
from lensllm.store.artifacts import Ref, Store
from tasks.base.cell import Cell
from tasks.planning.plan import make_plan
from tasks.stages import finetune, probe, rate
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
    project.make_all(store, [step for step in plan.groundwork if step.stage != "probe"])
    with pytest.raises(ModelError, match="the loss of this cell's model is not finite"):
        project.make_all(store, [pretrained])
    assert not store.has(pretrained.ref)


class LaterFineTune(FineTune):
    """Settings of fine-tuning with one more, added after cells were trained."""

    schedule_of_a_later_version: str = "linear"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_setting_added_later_is_in_no_key_at_its_default(
    tmp_path: Path, store: Store, method: str
):
    config = project.changed(
        project.write_inputs(tmp_path, {"narrow": 16}),
        finetune={"method": method, "learning_rates": [1e-3, 1e-2]},
        curvature={"sizes": []},
    )
    plan = make_plan(config, store)
    model, cell = plan.models[0], plan.cells[Cell("narrow", 8, 0)]
    tokens, split = cell.recipe.upstream["tokens"], cell.recipe.upstream["sample"]

    def keys(**later: str) -> list[Ref]:
        settings = LaterFineTune.model_validate(model.settings.model_dump() | later)
        changed = replace(model, settings=settings)
        trials = finetune.trials(config, changed, tokens, split)
        chosen = rate.step(changed, trials).ref
        cells = [finetune.step(config, changed, 8, 0, tokens, split, ref) for ref in (None, chosen)]
        probed = probe.step(config, changed, tokens, split)
        return [step.ref for step in (*trials.values(), *cells, probed)]

    present = keys()
    assert cell.ref in present
    assert set(present) == {
        *(step.ref for step in plan.trials["narrow"].values()),
        *(finetune.step(config, model, 8, 0, tokens, split, ref).ref
          for ref in (None, plan.rates["narrow"].ref)),
        probe.step(config, model, tokens, split).ref,
    }  # fmt: skip
    assert not set(present) & set(keys(schedule_of_a_later_version="cosine"))

"""Cells that must not count as successful."""

from pathlib import Path

import pytest
import torch

from lensllm.core.errors import ModelError
from lensllm.models.load import load_model
from lensllm.store.artifacts import Store
from tasks.base.cell import Cell
from tasks.planning.plan import make_plan
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

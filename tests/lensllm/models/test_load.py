"""What a checkpoint must be like to be loaded."""

from pathlib import Path

import pytest
import torch

from lensllm.errors import ModelError
from lensllm.models.load import load_model


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["qwen3", "t5"])
def test_a_checkpoint_with_a_damaged_weight_is_refused(tmp_path: Path, tiny_model, kind, value):
    model = tiny_model(kind).float()
    model.save_pretrained(tmp_path)
    name = list(dict(model.named_parameters()))[3]
    assert load_model(tmp_path).get_parameter(name).isfinite().all()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1:].fill_(value)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path} is damaged: its weight {name} is not finite"):
        load_model(tmp_path)

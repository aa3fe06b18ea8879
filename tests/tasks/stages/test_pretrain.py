"""The embedded candidates' pretraining is independent of fine-tuning."""

from lensllm.config.sections import Pipeline
from lensllm.store import Store
from tasks.planning.models import resolve
from tests.tasks import project


def test_no_setting_of_fine_tuning_is_in_the_key(store: Store):
    config = Pipeline.model_validate({"candidates": ["builtin:gpt2-nano-docs"]})
    other = project.changed(
        config, finetune={"warmup": 0.5, "epochs": 7, "learning_rate": 1.0, "clip": 0.1}
    )
    steps = [resolve(c, c.candidates[0], store).steps[-1] for c in (config, other)]
    assert steps[0].stage == "pretrain"
    assert steps[0].ref == steps[1].ref

"""Gradients in parts are those of the whole batch, and an attempt that failed leaves no trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lensllm.config.sections import FineTune
from lensllm.core.errors import ModelError
from lensllm.training import accumulate
from lensllm.training.loop import fine_tune
from lensllm.training.memory import BatchPlan, BatchSizeTuner
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, VALIDATION, tiny

DOUBLE = torch.float64


def tuner_with(**fit: Any) -> BatchSizeTuner:
    made = BatchSizeTuner()
    made.plan = BatchPlan(**fit)
    return made


def gradients(model: Any, examples: Any, fit: BatchSizeTuner, dtype: torch.dtype = DOUBLE):
    model.zero_grad(set_to_none=True)
    loss = accumulate.gradients(model, examples, device=CPU, dtype=dtype, tuner=fit)
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_have_the_whole_batchs_loss_and_gradients(
    architecture: str,
    tiny_model: Callable[..., Any],
    tiny_examples: Callable[..., Any],
    plain_losses: Callable[..., Any],
    checkpointing: bool,
):
    """Against one unpadded example at a time and no sums of ours: a mean over target tokens."""
    model, examples = tiny_model(architecture), tiny_examples(7)
    counts = torch.tensor([len(e.completion) for e in examples])
    model.zero_grad()
    true = (plain_losses(model, examples) * counts).sum() / counts.sum()
    true.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.train()
    accumulate.set_checkpointing(model, checkpointing)
    dropout = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    for module in dropout:
        module.p = 0.0
    model.config.dropout = model.config.attention_dropout = 0.0  # where functions read it
    for module in model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for size in (0, 1, 3):
        loss, found = gradients(model, examples, tuner_with(micro_batch=size))
        assert loss == pytest.approx(float(true.detach()), rel=1e-12)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "checkpointing"), [(1, True), (3, False), (9, False)])
def test_a_cells_losses_do_not_depend_on_the_parts(size: int, checkpointing: bool):
    settings = FineTune(batch_size=8, epochs=2, learning_rate=1e-3)
    ends = []
    for fit in (tuner_with(), tuner_with(micro_batch=size, checkpointing=checkpointing)):
        model = tiny(dropout=0.0).double()
        tuned = fine_tune(
            model, TRAIN, VALIDATION, settings, seed=3, device=CPU, dtype=DOUBLE, tuner=fit
        )
        ends.append([e.validation_nats_per_token for e in tuned.epochs])
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_recomputed_activations_see_the_same_dropout(kind: str):
    found = []
    for checkpointing in (False, True):
        model = tiny(kind).train()
        accumulate.set_checkpointing(model, checkpointing)
        torch.manual_seed(1)
        found.append(gradients(model, TRAIN[:8], tuner_with(micro_batch=1), FLOAT))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(g, found[1][1][n]) for n, g in found[0][1].items())


class _Full:
    """An allocator that refuses when more than ``room`` examples are in a batch: after the passes
    began, and after it has drawn random numbers."""

    def __init__(self, model: Any, room: int) -> None:
        self.room, self.now, self.refused = room, 0, []
        model.get_output_embeddings().register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        if self.now > self.room:
            self.refused.append(self.now)
            torch.rand(3)
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ...")


def _watch(model: Any, room: int) -> _Full:
    full = _Full(model, room)
    model.register_forward_pre_hook(
        lambda _, args, kwargs: setattr(full, "now", len(kwargs["input_ids"])), with_kwargs=True
    )
    return full


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    """As if the parts had been that small from the start: dropout's draws too."""
    small, found_out = tiny().train(), tiny().train()
    torch.manual_seed(5)
    wanted = gradients(small, TRAIN[:16], tuner_with(micro_batch=4), FLOAT)
    full, fit = _watch(found_out, 4), BatchSizeTuner()
    torch.manual_seed(5)
    found = gradients(found_out, TRAIN[:16], fit, FLOAT)
    assert full.refused == [16, 8]
    assert fit.plan == BatchPlan(micro_batch=4)
    assert found[0] == wanted[0]
    assert all(torch.equal(g, found[1][n]) for n, g in wanted[1].items())


def test_at_one_example_activations_are_recomputed_and_then_the_cell_gives_up():
    model = tiny().train()
    _watch(model, 0)
    fit = BatchSizeTuner()
    with pytest.raises(ModelError, match=r"one example at a time: training needs about .* MiB"):
        gradients(model, TRAIN[:4], fit, FLOAT)
    assert fit.plan == BatchPlan(micro_batch=1, checkpointing=True)


def test_any_other_error_is_not_taken_for_a_lack_of_memory():
    model = tiny().train()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        gradients(model, TRAIN[:4], BatchSizeTuner(), FLOAT)

"""What fits is found out once and remembered, by several processes at a time; for real."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import ModelError
from lensllm.training import memory
from lensllm.training.evaluate import evaluate
from lensllm.training.memory import BatchPlan, BatchSizeTuner
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, tiny

FITS = st.builds(BatchPlan, st.integers(0, 64), st.booleans(), st.integers(1, 64))


@given(st.integers(1, 300))
def test_halving_ends_at_one_example_with_recomputed_activations(batch: int):
    fit, sizes = BatchPlan(), []
    while (smaller := fit.smaller(batch, can_checkpoint=True)) is not None:
        fit = smaller
        sizes.append(fit.micro_batch)
    assert sizes == sorted(sizes, reverse=True)
    assert fit == BatchPlan(micro_batch=1, checkpointing=True)
    assert len(sizes) <= batch.bit_length() + 2


@given(FITS, FITS)
def test_of_two_findings_the_more_careful_counts(one: BatchPlan, two: BatchPlan):
    both = one.smallest(two)
    assert both == two.smallest(one)
    assert both.smallest(one) == both
    assert both.evaluation_batch <= min(one.evaluation_batch, two.evaluation_batch)
    assert both.checkpointing >= max(one.checkpointing, two.checkpointing)


def test_the_next_cell_starts_with_what_was_found(tmp_path: Path):
    path = tmp_path / "fits" / "gpt2-cpu.json"
    first = BatchSizeTuner(path)
    assert first.shrink(16, can_checkpoint=True)
    assert first.shrink_evaluation(64)
    assert BatchSizeTuner(path).plan == BatchPlan(micro_batch=8, evaluation_batch=32)
    path.write_text("half a fi")
    assert BatchSizeTuner(path).plan == BatchPlan()


def test_several_writers_leave_one_whole_file(tmp_path: Path):
    path = tmp_path / "fit.json"

    def write(batch: int) -> None:
        BatchSizeTuner(path).shrink(batch, can_checkpoint=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, [64, 32, 16] * 5))
    assert BatchSizeTuner(path).plan.micro_batch >= 1
    assert [path] == list(tmp_path.iterdir())


def test_an_evaluation_that_does_not_fit_is_halved_and_has_the_same_loss():
    model = tiny()
    whole = evaluate(model, TRAIN, device=CPU, dtype=FLOAT)

    def refuse(_: object, __: object, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    tuner = BatchSizeTuner()
    parts = evaluate(model, TRAIN, device=CPU, dtype=FLOAT, tuner=tuner)
    assert tuner.plan.evaluation_batch == 5
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert parts.tokens == whole.tokens
    assert parts.examples == pytest.approx(whole.examples, rel=1e-5)


def test_the_sentence_names_what_takes_the_memory():
    model = tiny()
    weights = sum(p.numel() * 4 for p in model.parameters())
    error = memory.too_large(model, TRAIN, CPU)
    assert isinstance(error, ModelError)
    for part, size in (("weights", weights), ("gradients", weights), ("moments", 2 * weights)):
        assert f"{part} {size / 2**20:.2g} MiB" in str(error)
    assert "engine.memory_gib" in str(error)


_CAPPED = """
import json, sys
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import fine_tune
from lensllm.config.sections import FineTune
from lensllm.training import memory
from lensllm.models.batch import Example

cap, path = float(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
settings = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=512,
                      resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(settings)
long = [Example([1 + i % 500] * 400, [7] * 60 + [0]) for i in range(32)]
cpu = torch.device("cpu")
tuner = memory.BatchSizeTuner(__import__("pathlib").Path(path) if path != "-" else None)
with memory.limited(cap or None, cpu):
    tuned = fine_tune(model, long, long[:4], FineTune(batch_size=32, epochs=1), seed=0,
                               device=cpu, dtype=torch.float32, tuner=tuner)
print(json.dumps([tuned.best.validation_nats_per_token, tuner.plan.micro_batch]))
"""


def _capped(gib: float, path: Path | str = "-") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CAPPED, str(gib), str(path)],
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
def test_a_process_that_may_not_allocate_more_trains_in_parts_to_the_same_loss(tmp_path: Path):
    """No patches: the kernel refuses the allocator of a real process."""
    path = tmp_path / "fit.json"
    free, capped = _capped(0), _capped(0.12, path)
    assert capped.returncode == 0, capped.stderr[-2000:]
    (loss, micro), (again, smaller) = (json.loads(run.stdout) for run in (free, capped))
    assert micro == 0
    assert 0 < smaller < 32
    assert again == pytest.approx(loss, rel=1e-4)
    assert BatchSizeTuner(path).plan.micro_batch == smaller


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
def test_a_cell_that_fits_in_no_way_says_what_it_needs():
    capped = _capped(0.002)
    assert capped.returncode != 0
    assert "ModelError: out of memory on cpu with one example at a time" in capped.stderr

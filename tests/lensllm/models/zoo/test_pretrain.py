import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from lensllm.models import batch, load
from lensllm.models.batch import Example
from lensllm.models.zoo import pretrain, specs, tokenizer
from lensllm.training import loop

KINDS = ("docs", "reference", "prose", "code")
TEXTS = pd.DataFrame(
    [
        {
            "kind": kind,
            "text": " ".join(f"{kind} grows by {i % 7} and {i % 5}." for i in range(500)),
        }
        for kind in KINDS
    ]
)
TOKENIZER = tokenizer.train(TEXTS["text"], vocabulary=320)


def _small(name: str, **changes: object) -> specs.ZooSpec:
    return dataclasses.replace(specs.SPECS[name], **{"steps": 3, "length": 16, **changes})


def _pretrain(spec: specs.ZooSpec, folder: Path) -> pd.DataFrame:
    return pretrain.pretrain(spec, TOKENIZER, TEXTS, folder)


@pytest.mark.parametrize("name", specs.SPECS)
def test_two_pretrainings_write_the_same_bytes(name: str, tmp_path: Path) -> None:
    curves = [_pretrain(_small(name), tmp_path / run) for run in "ab"]
    assert curves[0].equals(curves[1])
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / run).iterdir()} for run in "ab"
    )
    assert "model.safetensors" in first
    assert first == second


@pytest.mark.parametrize("name", specs.SPECS)
def test_a_saved_candidate_loads_and_has_learnt(name: str, tmp_path: Path) -> None:
    curve = _pretrain(_small(name, steps=60), tmp_path)
    assert curve["step"].tolist() == [20, 40, 60]
    assert curve["tokens"].tolist() == [20 * 256, 40 * 256, 60 * 256]
    ids = load.load_tokenizer(tmp_path).encode(" docs grows by 3 and 1. docs grows")
    model = load.load_model(tmp_path)
    fresh = type(model)(model.config)
    examples = batch.collate([Example(ids[:4], ids[4:])], model.config)
    learnt, unlearnt = (batch.token_losses(m, examples).mean().item() for m in (model, fresh))
    assert curve["nats_per_token"].is_monotonic_decreasing
    assert learnt < unlearnt - 0.5


def test_the_curve_starts_at_the_loss_transformers_computes(tmp_path: Path) -> None:
    """One step at rate 0 leaves the initial weights, on which the library's own loss is right."""
    spec = _small("opt-mini-prose", steps=1, batch=1, length=99, learning_rate=0.0)
    curve = _pretrain(spec, tmp_path)
    prose = TEXTS.loc[TEXTS["kind"] == "prose", "text"].iloc[0]
    rows = torch.tensor([TOKENIZER.encode(prose)[:100]])
    expected = float(load.load_model(tmp_path)(input_ids=rows, labels=rows).loss)
    assert pytest.approx(expected, rel=1e-5) == curve["nats_per_token"].iloc[0]


def test_kinds_that_are_not_in_the_mix_are_not_read(tmp_path: Path) -> None:
    spec = _small("gpt2-mini-code", batch=2)
    changed = TEXTS.assign(text=TEXTS["text"].where(TEXTS["kind"] == "code", "other words"))
    curves = [pretrain.pretrain(spec, TOKENIZER, texts, tmp_path) for texts in (TEXTS, changed)]
    assert curves[0].equals(curves[1])


def test_another_schedule_of_fine_tuning_leaves_pretraining_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _small("gpt2-nano-docs", batch=2)
    before = _pretrain(spec, tmp_path)
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 0.0)
    assert before.equals(_pretrain(spec, tmp_path))


def test_the_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero() -> None:
    spec = _small("gpt2-nano-docs", steps=20, learning_rate=1.0)
    rates = [pretrain._learning_rate(step, spec) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 18)
    assert sorted(rates[2:], reverse=True) == rates[2:]


def test_the_curve_ends_at_the_last_step_and_threads_are_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    curve = _pretrain(_small("gpt2-nano-docs", steps=25, batch=2), tmp_path)
    assert curve["step"].tolist() == [20, 25]
    assert before == torch.get_num_threads()


def test_pretraining_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    _pretrain(_small("gpt2-nano-docs", steps=1), tmp_path)
    assert torch.equal(expected, torch.rand(3))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("gpt2-nano-docs", 0.17),
        ("neo-micro-topics", 0.44),
        ("t5-mini-docs", 0.64),
        ("opt-mini-prose", 0.89),
        ("gpt2-mini-code", 0.89),
        ("qwen3-mini-mix", 1.21),
    ],
)
def test_size_with_the_full_vocabulary(name: str, millions: float, tmp_path: Path) -> None:
    whole = tokenizer.train(TEXTS["text"], vocabulary=320)
    whole.add_tokens([f"token {i}" for i in range(tokenizer.VOCABULARY - len(whole))])
    spec = _small(name, steps=1, batch=1)
    pretrain.pretrain(spec, whole, TEXTS, tmp_path)
    assert millions == round(load.count_parameters(load.load_model(tmp_path)) / 1e6, 2)

"""Low-rank adapters: what is trained, from which numbers, and what merging adds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from lensllm.config.sections import FineTune, Lora
from lensllm.core.errors import ModelError
from lensllm.hessian.curvature import layers_of
from lensllm.models import adapters, delta, load
from lensllm.models.batch import Example, collate, target_logits
from lensllm.training.loop import TrainingResult, fine_tune
from tests.lensllm import families

LORA = Lora(rank=3, alpha=6, learning_rate=2e-2)
SETTINGS = FineTune(method="lora", lora=LORA, learning_rate=2e-2, epochs=4, batch_size=4, warmup=0)
EVERY = ("gpt2", "gpt2-untied", "gpt-neo", "opt", "bloom", "llama", "qwen3", "gemma2", "mamba",
         "mixtral", "qwen2-moe", "gpt-oss", "t5", "mt5", "switch", "bart")  # fmt: skip


def build(name: str) -> Any:
    return families.build(name).float()


def adapted(name: str, seed: int = 1) -> Any:
    return adapters.add(build(name), LORA, seed)


def frozen(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}


def train(model: Any, examples: list[Example]) -> TrainingResult:
    device = torch.device("cpu")
    return fine_tune(
        model, examples, examples, SETTINGS, seed=0, device=device, dtype=torch.float32
    )


@pytest.mark.parametrize("name", EVERY)
def test_nothing_changes_before_training_and_only_adapters_change_by_it(name: str):
    examples = families.probes(8)
    plain, model = build(name), adapted(name)
    batch = collate(examples, plain.config)
    assert torch.allclose(target_logits(plain, batch), target_logits(model, batch), atol=1e-5)
    before = frozen(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }
    tuned = train(model, examples)
    losses = [epoch.validation_nats_per_token for epoch in tuned.epochs]
    assert min(losses[1:]) < losses[0]
    after = frozen(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], weight) for n, weight in before.items())


@pytest.mark.parametrize("name", EVERY)
def test_merging_adds_the_scaled_product_of_both_factors(name: str, tmp_path: Path):
    examples, plain, model = families.probes(8), build(name), adapted(name)
    train(model, examples)
    factors = {
        path.removeprefix("base_model.model."): (
            layer.lora_B["default"].weight.detach(),
            layer.lora_A["default"].weight.detach(),
            isinstance(layer.get_base_layer(), nn.Linear),
        )
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    delta.save(model, plain, tmp_path / "delta.safetensors")
    saved = load_file(tmp_path / "delta.safetensors")
    assert saved.keys() == dict(plain.named_parameters()).keys()
    moved = {name for name, tensor in saved.items() if tensor.any()}
    assert moved
    assert moved <= {f"{path}.weight" for path in factors}
    for path, (b, a, linear) in factors.items():
        product = LORA.alpha / LORA.rank * (b @ a)
        expected = product if linear else product.T  # a Conv1D is a linear layer transposed
        torch.testing.assert_close(saved[f"{path}.weight"], expected)
    logits = target_logits(model, collate(examples, plain.config))
    delta.apply(plain, tmp_path / "delta.safetensors", layers_of(plain))
    merged = target_logits(plain, collate(examples, plain.config))
    torch.testing.assert_close(merged, logits, atol=2e-3, rtol=1e-3)


def test_peft_merges_to_the_same(tmp_path: Path):
    examples, plain, model = families.probes(8), build("gpt2"), adapted("gpt2")
    train(model, examples)
    difference = adapters.merged_difference(model)
    merged = dict(model.merge_and_unload().named_parameters())
    for name, weight in plain.named_parameters():
        added = difference.get(name, torch.zeros_like(weight))
        torch.testing.assert_close(merged[name], weight + added)


def test_a_seed_gives_the_same_bits_whatever_was_drawn_before():
    first = adapted("llama", seed=5).state_dict()
    models = [build("llama") for _ in range(2)]
    state = torch.get_rng_state()
    again, other = (adapters.add(m, LORA, 5 + i).state_dict() for i, m in enumerate(models))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert any(not torch.equal(first[name], tensor) for name, tensor in other.items())
    results = [train(adapted("llama", seed=5), families.probes(8)) for _ in range(2)]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", EVERY)
def test_head_embeddings_and_routers_have_none(name: str):
    model = build(name)
    modules = dict(model.named_modules())
    paths = adapters.adaptable(model)
    assert paths
    assert model.get_output_embeddings() not in [modules[path] for path in paths]
    assert not [p for p in paths if p.endswith(("classifier", "router", "shared_expert_gate"))]
    assert not [p for p in paths if isinstance(modules[p], nn.Embedding)]


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_fused_experts_stay_as_they_are(name: str):
    model = adapted(name)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not [n for n in trained if "expert" in n]
    assert [n for n in trained if "q_proj" in n]


def test_frozen_weights_may_be_narrow_and_adapters_are_not():
    model = adapters.add(build("llama").bfloat16(), LORA, 1)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    examples = families.probes(8)
    tuned = fine_tune(
        model,
        examples,
        examples,
        SETTINGS,
        seed=0,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
    )
    losses = [epoch.validation_nats_per_token for epoch in tuned.epochs]
    assert min(losses[1:]) < losses[0]
    for difference in adapters.merged_difference(model).values():
        assert difference.dtype == torch.float32


def test_weights_are_counted_in_all_and_those_trained():
    plain, model = build("llama"), adapted("llama")
    trained = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert load.count_trainable(model) == trained
    assert load.count_parameters(model) == load.count_parameters(plain) + trained


def test_a_model_without_a_linear_layer_is_a_sentence():
    model = build("llama")
    model.model.layers = nn.ModuleList()
    with pytest.raises(ModelError, match=r"no linear layer for an adapter; set finetune.method"):
        adapters.add(model, LORA, 0)

"""Limits of shapes refuse no architecture that transformers has."""

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as auto

from lensllm.models import limits

NAMES = [
    *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
]
OTHERS = ("gemma4_assistant", "musicflamingo")  # without a default, and a model of sound


def test_every_architectures_default_is_within_the_limits() -> None:
    for name in NAMES:
        if name not in OTHERS:
            limits.check(CONFIG_MAPPING[name]().to_dict(), name)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (
            {"num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248,
             "num_attention_heads": 128, "vocab_size": 128256},
            405e9,
        ),
        (
            {"num_hidden_layers": 61, "hidden_size": 7168, "n_routed_experts": 384,
             "moe_intermediate_size": 2048, "vocab_size": 163840},
            1e12,
        ),
        ({"n_layer": 12, "n_embd": 768, "n_inner": None, "n_head": 12, "vocab_size": 50257}, 124e6),
    ],
    ids=["Llama 405B", "Kimi K2", "GPT-2"],
)  # fmt: skip
def test_weights_are_counted_rather_too_many(settings: dict[str, int], weights: float) -> None:
    limits.check(settings, "x")
    assert weights < limits.weights(settings, "x") < 20 * weights

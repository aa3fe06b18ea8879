"""Which attention a model runs with, and why."""

from typing import Any

import pytest
import torch

from lensllm.core.errors import ModelError
from lensllm.models import load, prepare
from tests.lensllm import families

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # nothing is put on either
NARROW, WIDE = torch.bfloat16, torch.float32


def kind(name: str) -> Any:
    return load.model_class(families._CONFIGS[name]())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama", "sdpa"), ("gpt2", "sdpa"), ("gpt-neo", "eager"), ("mamba", "eager")],
)
def test_auto_takes_the_fused_one_where_there_is_one(name: str, expected: str):
    found, reason = prepare.choose_attention("auto", kind(name), CPU, WIDE)
    assert found == expected
    assert reason.startswith(f"{expected}: {kind(name).__name__} has ")


@pytest.mark.parametrize("name", sorted(families._CONFIGS))
def test_what_auto_takes_is_what_the_architecture_accepts(name: str):
    config = families._CONFIGS[name]()
    found, _ = prepare.choose_attention("auto", load.model_class(config), CPU, WIDE)
    model = load._auto(config).from_config(config, attn_implementation=found)
    assert model.config._attn_implementation == found
    left_to_transformers = load._auto(config).from_config(families._CONFIGS[name]())
    assert left_to_transformers.config._attn_implementation == found


@pytest.mark.parametrize("wanted", ["eager", "sdpa"])
def test_what_is_configured_is_taken(wanted: str):
    assert prepare.choose_attention(wanted, kind("llama"), CPU, WIDE) == (
        wanted,
        f"{wanted}: configured",
    )


@pytest.mark.parametrize(
    ("wanted", "name", "device", "dtype", "sentence"),
    [
        ("sdpa", "gpt-neo", CPU, WIDE, "is sdpa, but GPTNeoForCausalLM has none; set finetune"),
        ("flash_attention_2", "t5", CUDA, NARROW, "T5ForConditionalGeneration has none"),
        ("flash_attention_2", "llama", CPU, NARROW, "needs a CUDA device and this is cpu"),
        ("flash_attention_2", "llama", CUDA, WIDE, "bfloat16 only"),
        ("flash_attention_2", "llama", CUDA, NARROW, "flash-attn is not installed"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    wanted: str, name: str, device: torch.device, dtype: torch.dtype, sentence: str
):
    with pytest.raises(ModelError, match=sentence):
        prepare.choose_attention(wanted, kind(name), device, dtype)

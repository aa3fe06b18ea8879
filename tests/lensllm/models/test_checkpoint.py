"""What a candidate's folder must hold, told before anything is loaded."""

import json
from pathlib import Path

import pytest

from lensllm.core.errors import ModelError
from lensllm.models import checkpoint

EMPTY = (2).to_bytes(8, "little") + b"{}"  # safetensors without a tensor


def write(folder: Path, config: str | None = "{}", weights: str = "model.safetensors") -> Path:
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    (folder / weights).write_bytes(EMPTY)
    return folder


def settings(**values: object) -> str:
    return json.dumps(values)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"config": None}, "has no config.json; use save_pretrained"),
        ({"weights": "pytorch_model.bin"}, r"no .safetensors weights.*never loaded"),
        ({"config": "{"}, "config.json is not JSON"),
        ({"config": settings(model_type="opt", max_position_embeddings=64)}, "at most 64 tokens"),
        ({"config": settings(model_type="gpt2", n_positions=32)}, "lower it to 32"),
        ({"config": "[]"}, "config.json is not JSON"),
        (
            {"config": settings(model_type="bert", architectures=["BertForMaskedLM"])},
            "is a BertForMaskedLM, which has no language-model head",
        ),
        (
            {"config": settings(model_type="llama", architectures=["LlamaForTokenClassification"])},
            "take a causal or encoder-decoder language model",
        ),
        (
            {"config": settings(architectures=["LlavaForConditionalGeneration"], vision_config={})},
            r"a model of more than text \(LlavaForConditionalGeneration\)",
        ),
        (
            {"config": settings(quantization_config={"quant_method": "gptq"})},
            r"quantised weights \(gptq\), which cannot be fine-tuned",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, content: dict, sentence: str):
    with pytest.raises(ModelError, match=sentence):
        checkpoint.check(write(tmp_path / "model", **content), max_tokens=128)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ModelError, match="no such folder"):
        checkpoint.check(tmp_path / "nowhere", max_tokens=128)


@pytest.mark.parametrize(
    "config",
    [
        settings(model_type="t5", n_positions=16),  # its positions are relative
        settings(model_type="gpt2", n_positions=128),
        settings(model_type="llama", max_position_embeddings=2048),
        settings(model_type="bloom"),
        settings(model_type="mamba", max_position_embeddings=None),
        settings(model_type="mistral", max_position_embeddings=4096, sliding_window=16),
        settings(model_type="bart", architectures=["BartModel"]),
        settings(model_type="marian", architectures=["MarianMTModel"]),
        settings(),
    ],
)
def test_a_context_that_is_long_enough(tmp_path: Path, config: str):
    checkpoint.check(write(tmp_path / "model", config), max_tokens=128)


def test_a_shard_that_is_not_there(tmp_path: Path):
    folder = write(tmp_path / "model", weights="model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / checkpoint.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-2.safetensors, which its model.safetensors"):
        checkpoint.check(folder, max_tokens=128)
    (folder / "model-2.safetensors").write_bytes(EMPTY)
    checkpoint.check(folder, max_tokens=128)

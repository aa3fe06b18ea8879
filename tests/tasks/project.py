"""A whole pipeline in one process: real stages on a data file and a checkpoint made on the spot."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lensllm import seeds
from lensllm.config import Pipeline
from lensllm.models import tokenizer
from lensllm.models.specs import ZooSpec
from lensllm.store import Recipe, Store, write_table
from tasks import pretrain
from tasks import tokenizer as tokenizer_stage
from tasks.plan import Plan, conclude, make_plan
from tasks.stage import Step, make

WORDS = ["red", "green", "blue", "small", "large", "round"]
TINY = ZooSpec("tiny", "gpt2", 16, 1, 2, {"docs": 1.0}, steps=3, learning_rate=1e-2, length=8)


def write_inputs(folder: Path) -> Pipeline:
    """Two checkpoints of different width and 160 rows to sort words by."""
    draw = seeds.generator(0, "rows")
    rows = []
    for _ in range(160):
        asked = draw.choice(WORDS, 4).tolist()
        rows.append({"prompt": " ".join(asked), "completion": " ".join(sorted(asked))})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bpe = tokenizer.train([" ".join(WORDS)] * 10, vocabulary=300)
    for name, width in (("narrow", 16), ("wide", 32)):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(bpe),
            n_embd=width,
            n_layer=1,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
        GPT2LMHeadModel(config).save_pretrained(folder / name)
        bpe.save_pretrained(folder / name)
    return Pipeline.model_validate(
        {
            "data": {
                "source": str(folder / "rows.jsonl"),
                "validation_examples": 10,
                "test_examples": 20,
                "max_tokens": 32,
            },
            "candidates": [str(folder / "narrow"), str(folder / "wide")],
            "sweep": {"min": 4, "max": 32, "target": 64, "measure_target": True},
            "finetune": {"batch_size": 4, "learning_rate": 1e-2},
            "kernel": {"probes": 6},
            "curvature": {"sizes": [4], "examples": 3, "lanczos_steps": 3, "trace_probes": 2},
        }
    )


def run(store: Store, config: Pipeline) -> tuple[Plan, list[Step]]:
    """Make every artefact of ``config`` without a server; the plan and all steps."""
    plan = make_plan(config, store)
    for step in plan.steps:
        make(store.root, step.recipe, step.hints)
    ending = conclude("tiny", plan, store, []).steps
    for step in ending:
        make(store.root, step.recipe, step.hints)
    return plan, [*plan.steps, *ending, *_embedded(store)]


def _embedded(store: Store) -> list[Step]:
    """The stages that make an embedded candidate, on a text of a few words."""
    text = Recipe("pretext", 0, {"made": "for a test"})
    rows = [{"kind": "docs", "text": " ".join(WORDS * 20)}] * 20
    store.make(text, lambda folder: write_table(folder, "pretext/texts", rows))
    bpe = tokenizer_stage.step(text.ref)
    make(store.root, bpe.recipe, bpe.hints)
    model = pretrain.step(TINY, text.ref, bpe.ref)
    make(store.root, model.recipe, model.hints)
    return [bpe, model]

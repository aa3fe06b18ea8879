"""A whole pipeline in one process: real stages on a data file and a checkpoint made on the spot."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lensllm.config.sections import Pipeline, Replay, public
from lensllm.core import seeds
from lensllm.models.zoo import tokenizer
from lensllm.models.zoo.specs import ZooSpec
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.plan import Plan, RankingPlan
from tasks.base.step import Cell, Step
from tasks.planning import replay
from tasks.planning.make import make
from tasks.planning.plan import make_plan, plan_ranking
from tasks.planning.rounds import Sweep, sweep
from tasks.stages import ablation, losses, pretrain, simulation, trunk
from tasks.stages import tokenizer as tokenizer_stage

WORDS = ["red", "green", "blue", "small", "large", "round"]
TINY = ZooSpec("tiny", "gpt2", 16, 1, 2, {"docs": 1.0}, steps=3, learning_rate=1e-2, length=8)
WIDTHS = {"narrow": 16, "wide": 32}


def write_inputs(folder: Path, widths: Mapping[str, int] = WIDTHS, rows: int = 160) -> Pipeline:
    """A checkpoint per name, of that width, and rows to sort words by."""
    draw = seeds.generator(0, "rows")
    lines = []
    for _ in range(rows):
        asked = draw.choice(WORDS, 4).tolist()
        lines.append({"prompt": " ".join(asked), "completion": " ".join(sorted(asked))})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    read = [" ".join(draw.choice(WORDS, 20)) for _ in range(10)]
    (folder / "read.txt").write_text("\n\n".join(read))
    bpe = tokenizer.train([" ".join(WORDS)] * 10, vocabulary=300)
    for name, width in widths.items():
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
            "candidates": [str(folder / name) for name in widths],
            "sweep": {"min": 4, "max": 32, "target": 64, "measure_target": True},
            "finetune": {"batch_size": 4, "learning_rate": 1e-2},
            "kernel": {"probes": 6, "pretraining_text": str(folder / "read.txt")},
            "curvature": {"sizes": [4, 16], "examples": 3, "lanczos_steps": 3, "trace_probes": 2},
            "heavy_tails": {"enabled": True},
        }
    )


def changed(config: Pipeline, **sections: Mapping[str, Any]) -> Pipeline:
    """``config`` with some settings of some sections replaced."""
    content = config.model_dump(mode="json")
    return Pipeline.model_validate(
        content | {name: {**content[name], **settings} for name, settings in sections.items()}
    )


def make_all(store: Store, steps: Iterable[Step]) -> list[Step]:
    """Make the steps in their order; those that were not there."""
    return [step for step in steps if not make(store.root, step.recipe, step.hints)]


def play(store: Store, plan: Plan, broken: Collection[Ref] = ()) -> Sweep:
    """Round after round, as the flow does it but without a server; the ``broken`` are never made."""
    make_all(store, plan.preparation)
    while True:
        now = sweep(plan, lost=lambda ref: ref in broken)
        if not make_all(store, [step for step in now.steps if step.ref not in broken]):
            return now


def finish(store: Store, plan: Plan, played: Sweep) -> RankingPlan:
    """The stages after the sweep, made."""
    ending = plan_ranking("tiny", plan, [], played.cells, played.decisions)
    make_all(store, ending.steps)
    return ending


def answers(store: Store, ranking: RankingPlan) -> pd.DataFrame:
    """The rows of ranking/predictions at the largest budget."""
    rows = store.table(ranking.ref("ranking"), "predictions")
    return rows[rows["budget"] == rows["budget"].max()]


def run(store: Store, config: Pipeline) -> tuple[Plan, list[Step]]:
    """Make every artefact of ``config`` without a server; the plan and steps of every stage."""
    plan = make_plan(config, store)
    ending = finish(store, plan, play(store, plan))
    others = [*_embedded(store), *_decisions(store, config), *_replayed(store)]
    others += [*_ablated(store, config, ending), *_rated(store, config)]
    others += _branched(store, config)
    return plan, [*plan.steps, *ending.steps, *others]


def _embedded(store: Store) -> list[Step]:
    """The stages that make an embedded candidate, on a text of a few words."""
    text = Recipe("pretext", 0, {"made": "for a test"})
    rows = [{"kind": "docs", "text": " ".join(WORDS * 20)}] * 20
    store.make(text, lambda folder: write_table(folder, "pretext/texts", rows))
    bpe = tokenizer_stage.step(text.ref)
    model = pretrain.step(TINY, text.ref, bpe.ref)
    make_all(store, [bpe, model])
    return [bpe, model]


def _decisions(store: Store, config: Pipeline) -> list[Step]:
    """What a policy decides with one more size below and, at most, one more above."""
    sizes = {"min": 2, "max": 64, "target": 96, "measure_target": False, "policy": "halving"}
    played = play(store, make_plan(changed(config, sweep=sizes), store))
    return [step for step in played.steps if step.stage == "decision"]


def _rated(store: Store, config: Pipeline) -> list[Step]:
    """A learning rate chosen for one candidate."""
    rates = changed(config, finetune={"learning_rates": [1e-3, 1e-2]}, curvature={"sizes": []})
    plan = make_plan(rates, store)
    name = plan.models[0].name
    make_all(store, plan.trials(name).values())
    make_all(store, [plan["rate"][name]])
    return [plan["rate"][name]]


def _branched(store: Store, config: Pipeline) -> list[Step]:
    """Two branches of a trunk, and the state that the larger one left."""
    branches = changed(
        config, sweep={"schedule": "trunk", "measure_target": False}, curvature={"sizes": []}
    )
    plan = make_plan(branches, store)
    cells = [plan.cells[Cell(plan.models[0].name, size, 0)] for size in (8, 16)]
    make_all(store, cells)
    (kept,) = trunk.belonging(plan)
    manifest = store.manifest(kept)
    upstream = {role: Ref(*ref) for role, ref in manifest["upstream"].items()}
    recipe = Recipe(kept.stage, manifest["version"], manifest["params"], upstream)
    return [*cells, Step("trunk", recipe)]


def _ablated(store: Store, config: Pipeline, ending: RankingPlan) -> list[Step]:
    """The pipeline beside itself with another τ, which has the same cells."""
    again = make_plan(changed(config, law={"tau": 0.5}), store)
    other = finish(store, again, play(store, again))
    points = [
        ablation.PointResult({"law.tau": 5.0}, ending),
        ablation.PointResult({"law.tau": 0.5}, other),
    ]
    compared = ablation.step("tiny", points, public(config))
    make_all(store, [compared])
    return [compared]


def _replayed(store: Store) -> list[Step]:
    """A published table and a policy played on it."""
    asked = Replay(table="gigaword", policy="halving")
    table = losses.step(asked.table)
    make_all(store, [table])
    played = simulation.step(replay.goal(asked, store, table.ref), {"curve": table.ref})
    make_all(store, [played])
    return [table, played]

"""Candidates as artefacts: what their keys hold, and whole cells of every kind of candidate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from lensllm.config.sections import Candidate, Pipeline
from lensllm.core.errors import ModelError
from lensllm.models import hub
from lensllm.models.zoo import tokenizer
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning import models
from tasks.planning.estimate import forecast
from tasks.planning.plan import check, make_plan
from tasks.stages import delta
from tests.hub_server import Hub, Repository, hub_of_our_own
from tests.tasks import project

server = pytest.fixture(hub_of_our_own)
CELL = Cell("narrow", 4, 0)
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 4, "learning_rate": 0.02}}


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    made = project.write_inputs(tmp_path, {"narrow": 16})
    return project.changed(made, heavy_tails={"enabled": False})


def with_candidate(config: Pipeline, **candidate: Any) -> Pipeline:
    content = config.model_dump(mode="json") | {"candidates": [{"name": "narrow", **candidate}]}
    return Pipeline.model_validate(content)


@pytest.fixture
def published(server: Hub, config: Pipeline) -> Repository:
    """The checkpoint of ``config`` as org/narrow."""
    repository = server.repositories["org/narrow"] = Repository()
    repository.commit(Path(config.candidates[0].model))
    return repository


def cell_of(plan: Plan) -> Ref:
    return plan.cells[CELL].ref


# --- the hub ---------------------------------------------------------------------------------------
def test_a_model_of_the_hub_is_planned_downloaded_and_trained_like_its_folder(
    store: Store, config: Pipeline, published: Repository, server: Hub
):
    remote = with_candidate(config, model="org/narrow")
    check(remote, store)
    plan = make_plan(remote, store)
    assert not [path for path in server.asked if "safetensors" in path]
    assert [s.stage for s in plan.steps if s.stage == "download"] == ["download"]
    project.make_all(store, [*plan.preparation, plan.cells[CELL]])
    local = make_plan(config, store)
    project.make_all(store, [*local.preparation, local.cells[CELL]])
    losses = [store.table(cell_of(p), "cell")["nats_per_token"][0] for p in (plan, local)]
    assert losses[0] == losses[1]
    assert plan["tokens"]["narrow"].ref == local["tokens"]["narrow"].ref


def test_the_commit_is_in_the_key_and_in_the_configuration_that_replays(
    store: Store, config: Pipeline, published: Repository
):
    first = make_plan(with_candidate(config, model="org/narrow"), store)
    commit = published.refs["main"]
    assert [(c.model, c.revision) for c in first.config.candidates] == [("org/narrow", commit)]
    assert first.models[0].steps[0].recipe.params == {"repo": "org/narrow", "commit": commit}
    again = shutil.copytree(published.commits[commit], store.root.parent / "changed")
    hub._known.clear()
    assert cell_of(make_plan(with_candidate(config, model="org/narrow"), store)) == cell_of(first)
    published.commit(again)
    hub._known.clear()
    moved = make_plan(with_candidate(config, model="org/narrow"), store)
    assert cell_of(moved) != cell_of(first)
    for pinned in ({"model": f"org/narrow@{commit}"}, {"model": "org/narrow", "revision": commit}):
        assert cell_of(make_plan(with_candidate(config, **pinned), store)) == cell_of(first)
    assert cell_of(make_plan(first.config, store)) == cell_of(first)


@pytest.mark.parametrize(("file", "words"), [("README.md", []), ("tokenizer.json", ["tokens"])])
def test_a_commit_renews_what_is_made_of_that_model_and_nothing_of_another(
    store: Store, tmp_path: Path, server: Hub, file: str, words: list[str]
):
    """Every commit is another model, known before its weights are; tokens go by the files."""
    config = project.write_inputs(tmp_path)
    repository = server.repositories["org/narrow"] = Repository()
    repository.commit(tmp_path / "narrow", "dev")
    content = config.model_dump(mode="json")
    content["candidates"][0] = {"name": "narrow", "model": "org/narrow@dev"}
    config = Pipeline.model_validate(content)

    def steps() -> dict[Ref, tuple[str, Any]]:
        hub._known.clear()  # as another command
        return {
            step.ref: (step.stage, step.hints.get("candidate"))
            for step in make_plan(config, store).steps
        }

    before = steps()
    moved = shutil.copytree(tmp_path / "narrow", tmp_path / "moved")
    with (moved / file).open("a") as stream:
        stream.write("\n")
    repository.commit(moved)
    assert steps() == before  # main alone has moved
    repository.commit(moved, "dev")
    after = steps()
    made = {"curvature", "delta", "finetune", "heavy_tails", "kernel", "overlap", "probe"}
    renewed = {after[ref] for ref in after.keys() - before.keys()}
    assert {stage for stage, _ in renewed} == {"download", *made, *words}
    assert {name for _, name in renewed} == {"narrow", None}
    kept = {after[ref] for ref in after.keys() & before.keys()}
    assert {name for _, name in kept} == {"wide", None}


def test_a_cache_that_was_emptied_is_filled_again(
    store: Store, config: Pipeline, published: Repository
):
    remote = with_candidate(config, model="org/narrow")
    (download,) = make_plan(remote, store).models[0].steps
    project.make_all(store, [download])
    assert project.make_all(store, make_plan(remote, store).models[0].steps) == []
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub._known.clear()
    (again,) = make_plan(remote, store).models[0].steps
    assert again.ref == download.ref
    assert project.make_all(store, [again]) == [again]
    assert (make_plan(remote, store).models[0].folder / "model.safetensors").is_file()


def test_a_model_of_the_hub_must_be_one_we_can_rank(
    store: Store, config: Pipeline, published: Repository
):
    path = published.commits[published.refs["main"]] / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"architectures": ["GPT2ForSequenceClassification"]}))
    with pytest.raises(ModelError, match="GPT2ForSequenceClassification, which has no"):
        check(with_candidate(config, model="org/narrow"), store)


def test_a_folder_that_looks_like_an_id_is_a_folder(
    store: Store, config: Pipeline, server: Hub, monkeypatch: pytest.MonkeyPatch
):
    folder = Path(config.candidates[0].model)
    monkeypatch.chdir(folder.parent.parent)
    local = with_candidate(config, model=f"{folder.parent.name}/{folder.name}")
    assert cell_of(make_plan(local, store)) == cell_of(make_plan(config, store))
    assert server.asked == []


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (
            {"model": "{folder}/narow"},
            r"no such folder: .*narow \(did you mean '.*narrow'\?\); give",
        ),
        ({"model": "gpt2"}, r"no such folder: gpt2.*, or org/name of a model on the hub"),
        ({"model": "org/narow"}, "no model 'org/narow' on the hub"),
        ({"model": "org/narrow@v9"}, "org/narrow has no revision 'v9'"),
        ({"model": "org/narrow@v9", "revision": "v8"}, "narrow has two revisions, v9 and v8"),
        ({"model": "{folder}/narrow", "revision": "v8"}, "has a revision, and '.*' is not on the"),
        ({"model": "{folder}/none.gguf"}, "no such file: .*none.gguf"),
        ({"model": "builtin:smollm2"}, r"no builtin 'smollm2' \(did you mean 'smollm2-135m'\?\)"),
    ],
)
def test_a_candidate_that_is_not_there_is_a_sentence_before_anything_runs(
    store: Store,
    config: Pipeline,
    published: Repository,
    candidate: dict[str, str],
    sentence: str,
):
    folder = str(Path(config.candidates[0].model).parent)
    written = {key: value.format(folder=folder) for key, value in candidate.items()}
    with pytest.raises(ModelError, match=sentence):
        check(with_candidate(config, **written), store)


# --- folders ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("model.safetensors", True, False),
        ("config.json", True, False),
        ("tokenizer.json", False, True),
        ("merges.txt", False, True),
        ("chat_template.jinja", False, True),
        ("spiece.model", False, True),
        ("README.md", False, False),
        ("training_args.json", False, False),
    ],
)
def test_a_changed_file_changes_what_is_made_from_it(
    config: Pipeline, store: Store, name: str, model: bool, words: bool
):
    def identity() -> tuple[str, str]:
        models._fingerprints.cache_clear()
        found = models.resolve(config, config.candidates[0], store)
        return str(found.params["model"]), str(found.tokenizer)

    before = identity()
    path = Path(config.candidates[0].model) / name
    content = path.read_bytes() if path.exists() else b""
    # the last byte of weights, and a space behind anything else
    path.write_bytes(content[:-1] + b"\1" if name.endswith(".safetensors") else content + b" ")
    after = identity()
    assert (before[0] != after[0], before[1] != after[1]) == (model, words)


def test_a_tokenizer_of_another_model_is_a_sentence(store: Store, config: Pipeline):
    folder = Path(config.candidates[0].model)
    other = tokenizer.train(["colourless green ideas sleep furiously"] * 30, vocabulary=400)
    other.add_tokens(["red", "blue"] + [f"unused{i}" for i in range(90)])
    other.save_pretrained(folder)
    plan = make_plan(config, store)
    project.make_all(store, [s for s in plan.preparation if s.stage != "kernel"][:4])
    with pytest.raises(ModelError, match=r"its tokenizer writes token \d+ and the model has emb"):
        project.make_all(store, [plan.cells[CELL]])


def test_a_plan_says_what_candidates_run_with_and_what_is_downloaded(
    store: Store, config: Pipeline, published: Repository
):
    remote = with_candidate(config, model="org/narrow", finetune=LORA)
    plan = make_plan(remote, store)
    found = forecast(plan, slots=1)
    assert [c.runs_with for c in found.candidates] == [
        "lora, float32: bfloat16 does not pay below 2M weights; "
        "sdpa: GPT2LMHeadModel has PyTorch's fused attention"
    ]
    size = (Path(config.candidates[0].model) / "model.safetensors").stat().st_size
    assert (found.to_download_bytes, found.to_pretrain) == (size, 0)
    project.make_all(store, plan.models[0].steps)
    assert forecast(plan, slots=1).to_download_bytes == 0
    other = Store(store.root.parent / "other")  # nothing made, and the cache is full
    other.prepare()
    hub._known.clear()
    assert forecast(make_plan(remote, other), slots=1).to_download_bytes == 0


@pytest.mark.parametrize("hosted", [False, True])
def test_plan_and_status_name_candidates_without_torch(
    tmp_path: Path, config: Pipeline, published: Repository, server: Hub, hosted: bool
):
    config = with_candidate(config, model="org/narrow") if hosted else config
    program = (
        "import sys; from pathlib import Path; from lensllm.config.sections import Pipeline; "
        "from lensllm.store.artifacts import Store; from tasks.planning.plan import check; "
        "store = Store(Path(sys.argv[2])); store.prepare(); "
        "check(Pipeline.model_validate_json(sys.argv[1]), store); "
        "print(sorted({'torch', 'transformers', 'peft', 'prefect'} & sys.modules.keys()))"
    )
    arguments = [sys.executable, "-c", program, config.model_dump_json(), str(tmp_path / "a")]
    elsewhere = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hub")}
    said = subprocess.run(
        arguments, capture_output=True, text=True, check=True, env=os.environ | elsewhere
    )
    assert said.stdout.strip() == "[]"


# --- adapters --------------------------------------------------------------------------------------
def lora(config: Pipeline, **more: Any) -> Pipeline:
    return project.changed(config, finetune={**LORA, **more})


def test_settings_of_adapters_are_in_the_keys_only_of_those_who_have_them(
    config: Pipeline, store: Store
):
    def refs(settings: Pipeline) -> list[Ref]:
        plan = make_plan(settings, store)
        return [cell_of(plan), plan["kernel"]["narrow"].ref, plan["overlap"]["narrow"].ref]

    full = refs(config)
    assert refs(project.changed(config, finetune={"lora": {"rank": 5}})) == full
    adapted = refs(lora(config))
    assert not set(full) & set(adapted)
    assert refs(lora(config, learning_rate=0.5)) == adapted
    slower = refs(lora(config, lora={**LORA["lora"], "learning_rate": 0.01}))
    assert [a == b for a, b in zip(slower, adapted, strict=True)] == [False, True, True]
    wider = refs(lora(config, lora={**LORA["lora"], "rank": 3}))
    assert not set(wider) & set(adapted)


def test_one_candidate_has_adapters_and_the_other_all_its_weights(tmp_path: Path, store: Store):
    config = project.write_inputs(tmp_path)
    narrow, wide = config.candidates
    own = Candidate(name=narrow.name, model=narrow.model, finetune=LORA)
    both = make_plan(config.model_copy(update={"candidates": (own, wide)}), store)
    plain = make_plan(config, store)
    same = {cell.candidate for cell, s in both.cells.items() if s.ref == plain.cells[cell].ref}
    assert same == {"wide"}


def test_a_pipeline_with_adapters_from_cells_to_curvature(config: Pipeline, store: Store):
    plan = make_plan(lora(config), store)
    project.make_all(store, [*plan.preparation, *plan.cells.values()])
    row = store.table(cell_of(plan), "cell").iloc[0]
    assert 0 < row["trainable_parameters"] < row["parameters"] / 3
    assert row["attention"] == "sdpa: GPT2LMHeadModel has PyTorch's fused attention"
    kept = load_file(store.path(plan["delta"][CELL].ref) / delta.FILE)
    moved = {name for name, change in kept.items() if change.any()}
    assert moved
    assert all(name.split(".")[-2] in ("c_attn", "c_proj", "c_fc") for name in moved)
    assert all(torch.linalg.matrix_rank(kept[name]) <= 2 for name in moved)
    project.make_all(store, plan["curvature"].values())
    layers = store.table(plan["curvature"][CELL].ref, "layers").set_index("layer")
    assert layers.loc["transformer.h.0", "distance"] > 0
    assert layers.loc["embeddings", "distance"] == 0
    assert layers.loc["embeddings", "vhv_positive_max"] == 0
    full = make_plan(config, store)
    project.make_all(store, full["kernel"].values())
    traces = [
        store.table(p["kernel"]["narrow"].ref, "spectrum")["eigenvalue"].sum() for p in (plan, full)
    ]
    assert 0 < traces[0] < traces[1]


def test_a_cell_with_adapters_has_the_same_bits_when_trained_again(config: Pipeline, store: Store):
    plan = make_plan(lora(config, lora={**LORA["lora"], "dropout": 0.1}), store)
    project.make_all(store, [*plan.preparation, plan.cells[CELL]])
    kept = store.path(plan["delta"][CELL].ref) / delta.FILE
    first = load_file(kept)
    store.remove(plan["delta"][CELL].ref)
    project.make_all(store, [plan["delta"][CELL]])
    again = load_file(kept)
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())

"""What a plan says of the data before training, and that a run says the same."""

import json
from pathlib import Path

import pytest

from lensllm.config.sections import Pipeline
from lensllm.core.errors import DataError
from lensllm.models.zoo import tokenizer
from lensllm.store.artifacts import Store
from tasks.planning.plan import check, make_plan
from tasks.planning.preflight import preflight
from tests.tasks.project import changed, write_inputs


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    return write_inputs(tmp_path, {"narrow": 16})


def chats(folder: Path, count: int = 120) -> str:
    rows = [
        [{"role": "user", "content": f"red {i}"}, {"role": "assistant", "content": f"{i} blue"}]
        for i in range(count)
    ]
    path = folder / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    return str(path)


def test_chats_for_a_model_without_a_template(store: Store, config: Pipeline, tmp_path: Path):
    settings = {"source": chats(tmp_path), "max_tokens": 16}
    seen = preflight(make_plan(changed(config, data=settings), store))
    assert [code for code, _ in seen.findings] == ["LENS304", "LENS307"]
    assert "For example line " in seen.findings[0][1]
    assert (seen.failed, seen.unchecked) == ((), ())


def test_a_second_look_makes_nothing(store: Store, config: Pipeline):
    plan = make_plan(config, store)
    first = preflight(plan)
    names = sorted(store.root.glob("*/*/manifest.json"))
    assert {path.parts[-3] for path in names} == {"dataset", "sample", "tokens", "inspection"}
    times = [path.stat().st_mtime_ns for path in names]
    assert preflight(make_plan(config, store)) == first
    assert [path.stat().st_mtime_ns for path in names] == times


def test_a_tokenizer_without_an_end_token_is_named(store: Store, config: Pipeline, tmp_path: Path):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "narrow" / name
        if path.is_file():
            settings = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    seen = preflight(make_plan(config, store))
    assert [name for name, _ in seen.failed] == ["narrow"]
    assert "its tokenizer has no end-of-text token; set eos_token" in seen.failed[0][1]


def test_embedded_candidates_whose_tokenizer_is_not_there_are_not_waited_for(
    store: Store, config: Pipeline
):
    content = config.model_dump(mode="json") | {"candidates": ["builtin:gpt2-nano-docs"]}
    seen = preflight(make_plan(Pipeline.model_validate(content), store))
    assert seen.unchecked == ("gpt2-nano-docs",)


def test_what_leads_to_the_tokens_is_no_model(store: Store, config: Pipeline):
    content = config.model_dump(mode="json")
    content["candidates"] = ["builtin:gpt2-nano-docs", *content["candidates"]]
    plan = make_plan(Pipeline.model_validate(content), store)
    stages = [step.stage for step in plan.with_dependencies(plan["tokens"].values())]
    assert sorted(set(stages)) == ["dataset", "pretext", "tokenizer", "tokens"]
    assert stages.index("tokenizer") < stages.index("tokens")


def test_a_chat_template_is_in_the_key_of_the_tokens(store: Store, config: Pipeline, tmp_path):
    before = make_plan(config, store)["tokens"]["narrow"].ref
    (tmp_path / "narrow" / "chat_template.jinja").write_text("{{ messages }}")
    assert make_plan(config, store)["tokens"]["narrow"].ref != before


def test_the_target_counts_what_is_not_kept(store: Store, config: Pipeline):
    whole = make_plan(changed(config, sweep={"target": "full", "measure_target": False}), store)
    few = changed(config, data={"keep": 80}, sweep={"target": "full", "measure_target": False})
    near = pytest.approx(whole.target, rel=0.1)  # an estimate: some rows are repeated
    assert make_plan(few, store).target == near
    measured = changed(few, sweep={"measure_target": True})
    with pytest.raises(DataError, match=r"are kept; set data\.keep to"):
        make_plan(measured, store)


def test_a_column_that_is_not_there_is_known_before_anything_is_made(
    store: Store, config: Pipeline
):
    with pytest.raises(DataError, match="no column 'topic'"):
        check(changed(config, data={"stratify": "topic"}), store)


def _write_chats(path: Path, rows: list[tuple[str, str]]) -> None:
    chats = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        for asked, answer in rows
    ]
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))


def test_files_as_people_have_them_meet_every_check(store: Store, tmp_path: Path):
    config = write_inputs(tmp_path, {"narrow": 16, "other": 16})
    spelt = tokenizer.train(["0123456789"] * 10, vocabulary=300)  # a token per letter
    spelt.pad_token = None
    spelt.save_pretrained(tmp_path / "other")
    tested = [(f"round {i}", "red green blue small large round") for i in range(30)]
    trained = [(f"small {i}", "large blue green red round small") for i in range(60)]
    trained += [tested[0], ("Round  1", tested[1][1].upper()), ("and this?", "")]
    _write_chats(tmp_path / "train.jsonl", trained)
    _write_chats(tmp_path / "test.jsonl", tested)
    places = {
        key: str(tmp_path / f"{name}.jsonl")
        for key, name in (("source", "train"), ("test_source", "test"))
    }
    sweep = {"target": "full", "measure_target": False}
    messy = changed(config, data={**places, "max_tokens": 16}, sweep=sweep)
    found = dict(preflight(make_plan(messy, store)).findings)
    assert list(found) == [f"LENS30{i}" for i in range(1, 8)]
    for code, who in (("LENS301", "other"), ("LENS305", "other"), ("LENS306", "other")):
        assert who in found[code]
    assert "line 63 of train.jsonl" in found["LENS302"]
    assert "train.jsonl" in found["LENS303"]

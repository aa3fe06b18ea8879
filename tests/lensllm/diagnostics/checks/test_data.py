"""Checks of the data, each on data that are spoilt in its way."""

from dataclasses import replace

import pandas as pd
import pytest

from lensllm.diagnostics.checks import DATA_CHECKS, DataEvidence, check_data, with_examples
from lensllm.store.schemas import schema

ROLES = ["test"] * 10 + ["validation"] * 5 + ["train"] * 25


@pytest.fixture
def clean() -> DataEvidence:
    """40 examples of 10 bytes, of which the last 5 are beyond the budget; three candidates."""
    count = len(ROLES)
    examples = pd.DataFrame(
        {
            "prompt": [f"question {i}" for i in range(count)],
            "completion": [f"answer {i:03}" for i in range(count)],
            "messages": "",
            "file": "rows.jsonl",
            "number": range(1, count + 1),
            "role": ROLES,
            "rank": [*range(10), *range(5), *range(25)],
        }
    )
    summary = pd.DataFrame(
        [["", "completion", 40, 40, 40, 0, "", "", 0, ""]], columns=schema("dataset/summary").names
    )
    tokens = pd.DataFrame(
        {"target_bytes": [10] * count, "truncated": False, "target_truncated": False}
    )
    reading = {"rendering": "completion", "beginning": "", "end_token": "</s>", "pad_token": "<p>"}
    return DataEvidence(
        examples=examples,
        summary=summary,
        tokens={name: tokens.copy() for name in "abc"},
        readings={name: dict(reading) for name in "abc"},
        budget=20,
        max_tokens=64,
    )


def cut(context: DataEvidence, names: str, rows: list[int], *columns: str) -> DataEvidence:
    """``rows`` are cut for the candidates ``names``, and half of their bytes lost."""
    tokens = {name: table.copy() for name, table in context.tokens.items()}
    for name in names:
        tokens[name].loc[rows, list(columns)] = True
        if "target_truncated" in columns:
            tokens[name].loc[rows, "target_bytes"] = 5
    return replace(context, tokens=tokens)


def codes(context: DataEvidence) -> list[str]:
    return check_data(context)["code"].tolist()


def test_nothing_is_found_where_nothing_is_wrong(clean: DataEvidence):
    assert check_data(clean).empty
    assert list(check_data(clean)) == ["code", "title", "candidate", "message", "place", "excerpt"]


def test_without_tokens_the_text_is_still_looked_at(clean: DataEvidence):
    summary = clean.summary.assign(unfit=2, unfit_place="line 3 of x.jsonl", unfit_reason="it is")
    assert codes(replace(clean, tokens={}, readings={}, summary=summary)) == ["LENS302"]


# --- LENS301 -------------------------------------------------------------------------------------
def test_targets_cut_for_one_candidate(clean: DataEvidence):
    spoilt = cut(clean, "b", [0, 7, 20, 30], "truncated", "target_truncated")
    found = check_data(spoilt).set_index("code").loc["LENS301"]
    assert found["candidate"] == "b"
    assert found["message"].startswith("Targets are cut at 64 tokens an example: b (11% of 35)")
    assert (found["place"], found["excerpt"]) == ("line 1 of rows.jsonl", "question 0")


def test_all_targets_cut(clean: DataEvidence):
    spoilt = cut(clean, "abc", list(range(40)), "truncated", "target_truncated")
    found = check_data(spoilt)
    assert "a (all of 35)" in found["message"][0]
    assert codes(spoilt) == ["LENS301"] * 3 + ["LENS304"]


def test_a_few_cut_targets_are_no_finding_of_their_own(clean: DataEvidence):
    assert "LENS301" not in codes(cut(clean, "b", [0, 7, 20], "target_truncated"))


def test_examples_beyond_the_budget_do_not_count(clean: DataEvidence):
    assert codes(cut(clean, "abc", [35, 36, 37, 38, 39], "truncated", "target_truncated")) == []


# --- LENS302 -------------------------------------------------------------------------------------
def test_rows_that_are_no_example(clean: DataEvidence):
    summary = clean.summary.assign(
        split="train", unfit=3, unfit_place="line 9 of x.csv", unfit_reason="the text is empty"
    )
    row = check_data(replace(clean, summary=summary)).iloc[0]
    assert row["message"].startswith(
        "3 of 40 rows of the train set are no example and are left out, "
        "the first because the text is empty; fill them in"
    )
    assert row["place"] == "line 9 of x.csv"


# --- LENS303 -------------------------------------------------------------------------------------
def test_examples_that_are_equal_but_for_case_and_space(clean: DataEvidence):
    examples = clean.examples.copy()
    examples.loc[30, ["prompt", "completion"]] = ["Question  4\n", "ANSWER 004"]
    row = check_data(replace(clean, examples=examples)).iloc[0]
    assert row["code"] == "LENS303"
    assert row["message"].startswith(
        "1 of 15 examples held out differ from a training example in case or space alone, "
        "the first from line 31 of rows.jsonl; "
    )
    assert (row["place"], row["excerpt"]) == ("line 5 of rows.jsonl", "question 4")


def test_the_same_answer_to_another_question_is_no_copy(clean: DataEvidence):
    examples = clean.examples.assign(completion="yes")
    assert "LENS303" not in codes(replace(clean, examples=examples))


def test_rows_that_were_left_out_for_being_tested_on(clean: DataEvidence):
    summary = clean.summary.assign(
        split="train", shared=4, shared_place="line 2 of train.jsonl, “the answer”"
    )
    row = check_data(replace(clean, summary=summary)).iloc[0]
    assert row["message"].startswith("4 of 40 rows of the train set are in a set held out as well")
    assert (row["place"], row["excerpt"]) == ("line 2 of train.jsonl", "the answer")


# --- LENS304 -------------------------------------------------------------------------------------
def test_one_example_that_no_candidate_sees_whole(clean: DataEvidence):
    row = check_data(cut(clean, "abc", [17], "truncated")).iloc[0]
    assert row["code"] == "LENS304"
    assert row["message"].startswith("1 of 35 examples are longer than 64 tokens, or have")
    assert (row["place"], row["excerpt"]) == ("line 18 of rows.jsonl", "question 17")
    assert "LENS304" not in codes(cut(clean, "ab", [17], "truncated"))


# --- LENS305 -------------------------------------------------------------------------------------
def test_candidates_that_are_tested_on_different_text(clean: DataEvidence):
    row = check_data(cut(clean, "c", [4], "target_truncated")).iloc[0]
    assert row["code"] == "LENS305"
    assert "from 95% of its bytes (c) to 100% (a)" in row["message"]
    assert row["place"] == "line 5 of rows.jsonl"
    assert codes(cut(clean, "abc", [4], "target_truncated")) == []
    assert codes(cut(clean, "c", [20], "target_truncated")) == []  # not a test example


# --- LENS306, LENS307 ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "field", "value"),
    [("LENS306", "pad_token", ""), ("LENS307", "rendering", "plain chat")],
)
def test_what_a_tokenizer_lacks(clean: DataEvidence, code: str, field: str, value: str):
    readings = {name: {**reading} for name, reading in clean.readings.items()}
    readings["b"][field] = value
    found = check_data(replace(clean, readings=readings))
    assert found[["code", "candidate"]].to_numpy().tolist() == [[code, "b"]]


# --- all -----------------------------------------------------------------------------------------
def messy(clean: DataEvidence) -> DataEvidence:
    spoilt = cut(clean, "abc", list(range(9)), "truncated", "target_truncated")
    spoilt = cut(spoilt, "c", [9], "target_truncated")
    lacking = {"pad_token": "", "rendering": "plain chat"}
    return replace(
        spoilt,
        examples=spoilt.examples.assign(prompt="same", completion="same"),
        summary=spoilt.summary.assign(unfit=1, unfit_place="line 1 of x.csv", unfit_reason="it is"),
        readings={name: {**r, **lacking} for name, r in spoilt.readings.items()},
    )


def test_every_check_finds_something_in_a_mess(clean: DataEvidence):
    found = check_data(messy(clean))
    assert set(DATA_CHECKS) == set(found["code"])
    for row in found.itertuples():
        assert DATA_CHECKS[row.code].title == row.title
        assert row.message.endswith(f"; {DATA_CHECKS[row.code].tip}.")


def test_many_candidates_are_one_sentence_a_check(clean: DataEvidence):
    spoilt = messy(clean)
    many = {f"{name}{i}": name for name in "abc" for i in range(9)}
    wide = replace(
        spoilt,
        tokens={new: spoilt.tokens[name] for new, name in many.items()},
        readings={new: spoilt.readings[name] for new, name in many.items()},
    )
    assert codes(wide) == list(DATA_CHECKS)


def test_people_read_the_example_behind_the_sentence(clean: DataEvidence):
    found = pd.DataFrame(
        {
            "code": "LENS304",
            "title": "t",
            "candidate": "",
            "message": ["It is; do."] * 3,
            "place": ["", "line 3 of x.csv", "line 3 of x.csv"],
            "excerpt": ["", "", "why"],
        }
    )
    assert with_examples(found)["message"].tolist() == [
        "It is; do.",
        "It is; do. For example line 3 of x.csv.",
        "It is; do. For example line 3 of x.csv: “why”.",
    ]

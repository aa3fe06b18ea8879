"""Stored answers give the ranking that asking gives, and are each predictor's own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import PREDICTORS, AtS, Function, Prediction, parts
from lensllm.selection.answers import Question, answer, curve_sets, stored_answers
from lensllm.selection.backtest import Backtest, all_origins, asked_predictors
from lensllm.selection.ranking import rank
from lensllm.store.schemas import schema

SIZES, TARGET = 100 * 2.0 ** np.arange(7), 51_200.0
NAMES = ("a", "b", "c")
TRUTH = np.array([1.0, 1.2, 1.1])
PLAIN = [name for name in PREDICTORS if parts(name) == (name,)]


def curves(repeats=2):
    random = np.random.default_rng(0)
    losses = 3 * (SIZES / 100) ** -np.array([[0.05], [0.1], [0.08]])
    losses = losses[:, :, None] * np.exp(0.003 * random.standard_normal((3, len(SIZES), repeats)))
    losses[2, 0] = np.nan
    return Curves(NAMES, SIZES, losses, zero_shot=np.array([4.0, 5.0, np.nan]))


def question(budgets=(1600, 6400), registry=PREDICTORS):
    names = tuple(PREDICTORS)
    return Question(TARGET, budgets, names, "stack", seed=0, draws=200, registry=registry)


@pytest.mark.parametrize("dropped", [(), ("b",)])
@pytest.mark.parametrize("repeats", [1, 2])
def test_the_ranking_from_stored_answers_is_that_from_asking(dropped, repeats):
    known = curves(repeats)
    answers = stored_answers(
        (name, answer(name, known, question(), True, dropped)) for name in PLAIN
    )

    def nobody_is_asked(curves, targets):
        raise AssertionError

    silent = {name: Function(nobody_is_asked, 1) for name in PLAIN}
    asked = question(registry={**PREDICTORS, **silent})

    stored = rank(known, asked, TRUTH, dropped, answers)
    expected = rank(known, question(), TRUTH, dropped)
    for name, table in vars(expected).items():
        pd.testing.assert_frame_equal(table, getattr(stored, name), check_exact=True)


@pytest.mark.parametrize("name", ["ats", "hrb", "lensllm"])
def test_the_tables_follow_their_schemas_even_when_empty(name):
    for table, rows in vars(answer(name, curves(), question(), True)).items():
        wanted = schema(f"prediction/{table}")
        assert wanted.names == list(rows.columns)
        assert wanted.equals(pa.Table.from_pandas(rows, wanted, preserve_index=False).schema)


def test_a_predictor_without_its_inputs_says_so_for_every_set_of_curves():
    found = answer("lensllm", curves(), question(), True)

    assert found.answers.empty
    assert set(found.skipped["curves"]) == {"all", *(f"resample {i}" for i in range(5))}
    largest = found.skipped[found.skipped["budget"] == 6400]
    assert largest["reason"].str.contains("needs the kernel of every candidate").all()


def test_an_answer_that_was_not_stored_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        Backtest(curves(), TARGET, answers={}).ask("ats", 7)
    with pytest.raises(DataError, match="no curve"):
        Backtest(curves(), TARGET, answers={("ats", 6400): "no curve"}).ask("ats", 7)


def test_repeats_are_resampled_only_for_scores():
    known = curves()
    assert list(curve_sets(known, question(), scored=False)) == ["all"]
    assert list(curve_sets(known, question(), True, {"b"}))[:2] == ["all", "racing"]
    assert len(curve_sets(known, question(), scored=True)) == 6
    assert list(curve_sets(replace(known, losses=known.losses[:, :, :1]), question(), True)) == [
        "all"
    ]


def test_the_origins_behind_an_origin_are_among_those_asked_from():
    """Of a fine grid an earlier origin has other origins of its own."""
    sizes = np.arange(200.0, 2600.0, 100.0)
    found = all_origins(sizes, len(sizes))

    assert len(sizes) in found
    assert min(found) >= 3
    assert all(all_origins(sizes, place) <= found for place in found)


def test_the_predictors_behind_a_policys_decision():
    assert asked_predictors("ats", PREDICTORS) == ("ats", "hrb")
    assert asked_predictors("stack", PREDICTORS) == ("ats", "hrb")
    assert asked_predictors("ats", PREDICTORS, error_unit="ats") == ("ats",)


def test_the_unit_of_errors_is_a_parameter():
    """Any predictor that states an sd can be it."""
    known = curves(1)

    def sure(curves, targets):
        return Prediction(AtS().predict(curves, targets).loss, np.full((3, len(targets)), 0.01))

    registry = {**PREDICTORS, "sure": Function(sure, 3)}
    asked = replace(question(registry=registry), predictors=("ats",), reference="ats")
    wide, narrow = (
        rank(known, replace(asked, error_unit=unit)).predictions for unit in ("hrb", "sure")
    )
    assert list(wide["predicted"]) == list(narrow["predicted"])
    assert not np.allclose(wide["high"] - wide["low"], narrow["high"] - narrow["low"])

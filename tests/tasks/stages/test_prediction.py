"""A change of one predictor leaves the stored answers of all others, and every cell, as they are."""

from dataclasses import replace as changed

import pytest

from lensllm.config.sections import Law, Ranking
from lensllm.predictors import PREDICTORS, AtS, Function, baselines, parts
from lensllm.store.artifacts import Ref
from tasks.base.goal import Goal
from tasks.base.plan import RankingPlan
from tasks.stages import STAGES, decision

PLAIN = {name for name in PREDICTORS if parts(name) == (name,)}
UPSTREAM = {
    "curve": Ref("curve", "0" * 32),
    "kernel:a": Ref("kernel", "1" * 32),
    "heavy_tails:a": Ref("heavy_tails", "2" * 32),
    "past:x": Ref("losses", "3" * 32),
}


def goal(predictor: str = "stack", policy: str = "all", **law: float | str) -> Goal:
    settings = Law.model_validate(law)
    return Goal("g", 6400, (800,), Ranking(predictor=predictor), settings, 0, policy, {})


def plan(asked: Goal, upstream: dict[str, Ref] = UPSTREAM) -> RankingPlan:
    given: dict[str, dict[str, Ref]] = {}
    for role, ref in upstream.items():
        kind, _, label = role.partition(":")
        given.setdefault(kind, {})[label] = ref
    return RankingPlan(STAGES, asked, given)


def refs(asked: Goal, upstream: dict[str, Ref] = UPSTREAM) -> dict[str, Ref]:
    return {str(name): s.ref for name, s in plan(asked, upstream)["prediction"].items()}


def moved(one: dict[str, Ref], other: dict[str, Ref]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


def test_every_predictor_but_the_mixtures_has_a_step_of_its_own():
    assert refs(goal()).keys() == PLAIN
    assert len(set(refs(goal()).values())) == len(PLAIN)


@pytest.mark.parametrize(
    ("law", "names"),
    [
        ({"gamma": 4}, {"ats"}),
        ({"tau": 3.0}, {"ats"}),
        ({"scale": "literal"}, {"lensllm", "lensllm_phase", "lensllm_pooled"}),
    ],
)
def test_a_setting_moves_the_answers_of_the_predictor_that_has_it(law, names):
    assert moved(refs(goal()), refs(goal(**law))) == names


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("curve", PLAIN),
        ("kernel:a", {"lensllm", "lensllm_phase", "lensllm_pooled"}),
        ("heavy_tails:a", {"pl_alpha", "e_tpl_lambda"}),
        ("past:x", {"hrb"}),
    ],
)
def test_an_input_moves_the_answers_of_those_that_read_it(role, names):
    other = {**UPSTREAM, role: Ref(UPSTREAM[role].stage, "f" * 32)}
    assert moved(refs(goal()), refs(goal(), other)) == names


def test_the_reference_and_the_draws_move_no_answer():
    draws = changed(goal("ats"), ranking=Ranking(predictor="ats", draws=100))
    assert moved(refs(goal()), refs(draws)) == set()


def test_another_version_of_one_predictor_moves_its_answers_and_the_ranking(monkeypatch):
    before, ranked = refs(goal()), plan(goal()).ref("ranking")
    monkeypatch.setattr(AtS, "version", 2)
    assert moved(before, refs(goal())) == {"ats"}
    assert plan(goal()).ref("ranking") != ranked


def test_one_more_predictor_moves_the_ranking_and_no_answer(monkeypatch):
    before, ranked = refs(goal()), plan(goal()).ref("ranking")
    monkeypatch.setitem(PREDICTORS, "new", Function(baselines.sub_tuning, needed_sizes=1))
    assert moved(before, refs(goal())) == set()
    assert plan(goal()).ref("ranking") != ranked


@pytest.mark.parametrize(
    ("predictor", "policy", "law", "same"),
    [
        ("stack", "adaptive", {"scale": "literal"}, True),
        ("stack", "adaptive", {"tau": 3.0}, False),
        ("hrb", "adaptive", {"tau": 3.0}, True),
        ("lensllm", "adaptive", {"scale": "literal"}, False),
        ("lensllm", "halving", {"scale": "literal"}, True),
        ("hrb", "halving", {"gamma": 4}, False),
    ],
)
def test_a_decision_depends_on_the_predictor_it_is_taken_by(predictor, policy, law, same):
    taken = [
        decision.step(goal(predictor, policy, **chosen), 800, UPSTREAM, ["a"], []).ref
        for chosen in ({}, law)
    ]
    assert (taken[0] == taken[1]) == same


def test_a_decision_names_only_what_its_predictor_reads():
    roles = decision.step(goal("hrb", "adaptive"), 800, UPSTREAM, ["a"], []).recipe.upstream
    assert roles.keys() == {"curve", "past:x"}
    roles = decision.step(goal("lensllm", "adaptive"), 800, UPSTREAM, ["a"], []).recipe.upstream
    assert roles.keys() == {"curve", "past:x", "kernel:a"}

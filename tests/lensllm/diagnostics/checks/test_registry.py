import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensllm.curves.curve import Curves
from lensllm.diagnostics.checks import (
    DATA_CHECKS,
    RANKING_CHECKS,
    RankingEvidence,
    check_ranking,
    outcomes,
    versions,
)

PAGE = Path(__file__).parents[4] / "docs" / "checks.md"


def dirty(clean, losses):
    """Something for almost every check."""
    values = losses(seeds=1, noise=0.003)
    values[0, 4:] *= 0.8  # a jump
    values[1, 3] = values[1, 2] * 1.06
    values[2, 5] = np.nan
    layers = clean.layers.copy()
    layers.loc[layers["size"] == 25_600, "trace"] *= 2
    layers.loc[(layers["layer"] == "h.0") & (layers["candidate"] == "d"), "vhv_positive_max"] = 9.0
    layers.loc[layers["candidate"] == "b", "largest_eigenvalue"] = 500.0
    return replace(
        clean,
        curves=replace(clean.curves, losses=values),
        target=1e8,
        predictions=clean.predictions.assign(low=0.1, high=10.0),
        fits=clean.fits.assign(t=0.0, transition_size=1e5),
        metric="nats_per_token",
        bounds=clean.bounds.assign(bound=3.0, uniform_nats_per_token=2.5),
        layers=layers,
        crossings=clean.crossings.assign(low=1e7),
    )


def test_codes_and_titles_are_those_of_the_document():
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    checks = [*RANKING_CHECKS.values(), *DATA_CHECKS.values()]

    assert [f"{check.code} {check.title}" for check in checks] == [
        section.splitlines()[0] for section in sections
    ]
    for check, section in zip(checks, sections, strict=True):
        assert f"**What to do:** {check.tip}.\n" in section
        assert "**Fires** " in section


def test_numbers_are_distinct_and_in_order():
    assert sorted(RANKING_CHECKS) == list(RANKING_CHECKS)
    assert all(re.fullmatch(r"LENS[12]\d\d", code) for code in RANKING_CHECKS)
    assert all(code == check.code for code, check in RANKING_CHECKS.items())
    assert sorted(DATA_CHECKS) == list(DATA_CHECKS)
    assert all(re.fullmatch(r"LENS3\d\d", code) for code in DATA_CHECKS)
    assert all(code == check.code for code, check in DATA_CHECKS.items())


def test_every_check_has_four_texts_and_a_version():
    for check in (*RANKING_CHECKS.values(), *DATA_CHECKS.values()):
        for words in (check.title, check.tip, check.passed, check.not_applicable):
            assert words
            assert words[-1] not in ".;"
    assert set(versions(RANKING_CHECKS)) == set(RANKING_CHECKS)
    assert min(versions(RANKING_CHECKS).values()) == 1


def test_outcomes_say_what_was_passed_and_what_does_not_apply(clean, losses):
    found = outcomes(RANKING_CHECKS, clean)
    fits = clean.fits[clean.fits["candidate"] == "a"]
    alone = replace(
        clean, curves=clean.curves.only("a"), predictions=clean.predictions[:1], fits=fits
    )

    assert list(found["code"]) == list(RANKING_CHECKS)
    by_code = found.set_index("code")["outcome"]
    assert by_code["LENS107"] == "not applicable"
    assert {"passed"} == set(by_code.drop("LENS107"))
    assert found["text"].iloc[0] == RANKING_CHECKS["LENS101"].passed
    by_code = outcomes(RANKING_CHECKS, alone).set_index("code")["outcome"]
    none = list(by_code[by_code == "not applicable"].index)
    assert none == ["LENS103", "LENS107", "LENS110", "LENS204"]
    messy = outcomes(RANKING_CHECKS, dirty(clean, losses))
    assert {"issue"} == set(messy["outcome"])


def test_nothing_is_found_where_nothing_is_wrong(clean):
    found = check_ranking(clean)

    assert list(found) == ["code", "title", "candidate", "message"]
    assert found.empty


def test_most_checks_find_something_in_a_mess(clean, losses):
    found = check_ranking(dirty(clean, losses))

    assert set(RANKING_CHECKS) == set(found["code"])
    for row in found.itertuples():
        assert RANKING_CHECKS[row.code].title == row.title
        assert row.message.endswith(f"; {RANKING_CHECKS[row.code].tip}.")


def test_what_is_missing_but_harmless_is_passed_over(clean):
    """A failed seed, a size nobody finished, a predictor that passed, a law that was too short."""
    curves = clean.curves
    losses = curves.losses.copy()
    losses[0, 2, 0] = losses[3, 7, 1] = np.nan
    losses[:, 4] = np.nan
    predictions, fits = clean.predictions.copy(), clean.fits.copy()
    predictions.loc[2, ["predicted", "low", "high"]] = np.nan
    fits.loc[fits["candidate"] == "c", "B":] = np.nan

    found = check_ranking(
        replace(clean, curves=replace(curves, losses=losses), predictions=predictions, fits=fits)
    )

    assert found.empty


def test_without_curvature_nothing_is_said_of_it(clean, losses):
    """As in a replay: tables without rows are the default."""
    context = dirty(clean, losses)
    bare = RankingEvidence(
        context.curves,
        context.target,
        context.metric,
        context.predictions,
        context.fits,
        context.tokenizers,
    )

    found = check_ranking(bare)

    assert {code for code in RANKING_CHECKS if code < "LENS200"} == set(found["code"])


def test_fifty_candidates_are_one_sentence_a_check(clean, losses):
    context = dirty(clean, losses)

    def many(frame):
        copies = [frame.assign(candidate=frame["candidate"] + str(i)) for i in range(9)]
        return pd.concat(copies, ignore_index=True)

    curves = context.curves
    found = check_ranking(
        replace(
            context,
            curves=Curves(
                tuple(name + str(i) for name in curves.candidates for i in range(9)),
                curves.sizes,
                np.repeat(curves.losses, 9, axis=0),
                families=tuple(np.repeat(curves.families, 9)),
            ),
            fits=many(context.fits),
            bounds=many(context.bounds),
            layers=many(context.layers),
            crossings=many(context.crossings),
        )
    )

    codes = found.loc[found["code"] > "LENS200", "code"]
    assert list(codes) == [code for code in RANKING_CHECKS if code > "LENS200"]


def test_the_unit_of_the_losses_does_not_matter(clean, losses):
    context = dirty(clean, losses)
    columns = ["predicted", "low", "high"]
    scaled = replace(
        context,
        curves=replace(context.curves, losses=7.3 * context.curves.losses),
        predictions=context.predictions.assign(**7.3 * context.predictions[columns]),
        fits=context.fits.assign(B=7.3 * context.fits["B"], E=7.3 * context.fits["E"]),
    )

    assert check_ranking(context).equals(check_ranking(scaled))


def test_the_order_of_the_candidates_does_not_matter(clean, losses):
    context = dirty(clean, losses)
    curves = context.curves
    shuffled = curves.only("dbface")

    single = [
        set(check_ranking(replace(context, curves=c)).query("candidate != ''")["message"])
        for c in (curves, shuffled)
    ]
    assert single[0] == single[1]
    assert single[0]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    missing=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=48),
    factors=st.lists(st.floats(0.5, 2), min_size=48, max_size=48),
    gone=st.integers(0, 6),
)
def test_no_curve_breaks_a_check(with_losses, missing, factors, gone):
    values = np.reshape(factors, (6, 8))
    for i, j in missing:
        values[i, j] = np.nan
    values[:gone] = np.nan

    check_ranking(with_losses(values))


@pytest.mark.parametrize("empty", ["no fits", "no columns"])
def test_laws_that_were_not_fitted_are_passed_over(clean, empty):
    fits = clean.fits[:0] if empty == "no fits" else clean.fits[:0][[]]

    assert check_ranking(replace(clean, fits=fits)).empty


def test_one_candidate_alone(clean):
    curves = replace(clean.curves, candidates=("a",), losses=clean.curves.losses[:1])
    alone = replace(clean, curves=curves, predictions=clean.predictions[:1], fits=clean.fits[:1])

    assert check_ranking(alone).empty

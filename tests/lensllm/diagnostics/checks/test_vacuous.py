from dataclasses import replace

import pytest

from lensllm.diagnostics.checks.vacuous import find, vacuous


def changed(clean, size=25_600, seed=None, **values):
    bounds = clean.bounds.copy()
    cells = (bounds["candidate"] == "a") & (bounds["size"] == size)
    if seed is not None:
        cells &= bounds["seed"] == seed
    bounds.loc[cells, list(values)] = list(values.values())
    return replace(clean, bounds=bounds)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({"bound": 8.0}, "at D = 25,600 it is 8.00 nats and a guess costs 8.00"),
        ({"bound": 9.5}, "at D = 25,600 it is 9.50 nats and a guess costs 8.00"),
        (
            {"bound": 7.0, "loss_bound": 6.5},
            "at D = 25,600 it is 7.00 nats and the largest loss is 6.50",
        ),
        ({"bound": 20.0, "size": 1600}, "at D = 1,600 it is 20.00 nats and a guess costs 8.00"),
    ],
)
def test_it_is_said_whenever_it_is_so(clean, values, known):
    (found,) = find(changed(clean, **values))

    assert found.candidate == "a"
    assert f"a (at 1 of 3 sizes; {known});" in found.message


def test_a_bound_below_both_is_not_vacuous(clean):
    assert find(changed(clean, bound=7.99)) == []


def test_of_several_sizes_the_largest_has_the_numbers(clean):
    (found,) = find(changed(changed(clean, bound=9.0), size=1600, bound=20.0))

    assert "a (at 2 of 3 sizes; at D = 25,600 it is 9.00 nats and" in found.message


def test_seeds_are_averaged(clean):
    (row,) = vacuous(changed(clean, seed=0, bound=14.0).bounds).to_dict("records")

    assert row["bound"] == pytest.approx((14 + 4 + 100 / 25_600) / 2)

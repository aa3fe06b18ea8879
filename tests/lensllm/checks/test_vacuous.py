from dataclasses import replace

import pytest

from lensllm.checks.vacuous import find, vacuous


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
        ({"bound": 8.0}, "8.00 nats, a guess costs 8.00"),
        ({"bound": 9.5}, "9.50 nats, a guess costs 8.00"),
        ({"bound": 7.0, "loss_bound": 6.5}, "7.00 nats, the largest loss is 6.50"),
    ],
)
def test_it_is_said_whenever_it_is_so(clean, values, known):
    (found,) = find(changed(clean, **values))

    assert found.candidate == "a"
    assert f"a ({known});" in found.message


@pytest.mark.parametrize("values", [{"bound": 7.99}, {"bound": 20.0, "size": 1600}])
def test_a_bound_below_both_is_not_vacuous(clean, values):
    """Nor do smaller sizes count."""
    assert find(changed(clean, **values)) == []


def test_seeds_are_averaged(clean):
    (row,) = vacuous(changed(clean, seed=0, bound=14.0).bounds).to_dict("records")

    assert row["bound"] == pytest.approx((14 + 4 + 100 / 25_600) / 2)


def test_each_candidate_has_a_largest_size_of_its_own(clean):
    """Where the last cell's curvature failed the one before it is asked."""
    bounds = changed(clean, size=1600, bound=20.0).bounds
    failed = bounds[(bounds["candidate"] != "a") | (bounds["size"] < 25_600)]

    assert [f.candidate for f in find(replace(clean, bounds=failed))] == ["a"]

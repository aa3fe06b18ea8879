"""The re-implemented procedure gives the numbers that Lin et al. (2024) published."""

from dataclasses import replace

import numpy as np
import pytest

from bench import published
from lensllm.curves import tables
from lensllm.curves.curve import Curves, curves_from_cells

SIZES = 200 * 2.0 ** np.arange(10)
TARGET = 1_638_400


def table(name, budget, *candidates):
    read = tables.read(name)
    cells = read.cells[read.cells["candidate"].isin(candidates)] if candidates else read.cells
    return curves_from_cells(cells, read.metric, budget)


def test_evaluate_is_the_rectified_law():
    A, b, beta, E = 4.0, -3.0, 0.4, -1.5  # |E| is the floor
    offset = np.exp(3.0)

    actual = published.evaluate(np.array([[A, b, beta, E]]), SIZES)

    np.testing.assert_allclose(actual, [(A - 1.5) * offset / (offset + SIZES**beta) + 1.5])


@pytest.mark.parametrize(
    ("name", "candidate", "expected"),
    [
        ("flan", "gpt2", 0.0074742),
        ("flan", "facebook/bart-large", 0.0128976),
        ("flan", "google/switch-base-16", 0.0088052),
        ("gigaword", "gpt2", 0.0029560),
        ("gigaword", "microsoft/phi-2", 0.0040281),
    ],
)
def test_it_has_the_published_residuals(name, candidate, expected):
    """``results/rmsd.csv`` of the authors' code: all sizes > 0."""
    data = table(name, TARGET, candidate)
    fitted = published.evaluate(published.fit(data.sizes, data.mean_losses), data.sizes)

    actual = np.sqrt(np.square(np.log(fitted / data.mean_losses)).mean())

    assert actual == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("budget", "expected"), [(204_800, 0.9698), (12_800, 0.8364)])
def test_its_predictions_correlate_with_the_truth_as_published(budget, expected):
    """``results/different_law_for_selection.csv`` of the authors' code: OurFit on Gigaword."""
    predicted = published.predict(table("gigaword", budget), TARGET)
    truth = table("gigaword", TARGET).last_losses

    assert np.corrcoef(predicted, truth)[0, 1] == pytest.approx(expected, abs=0.01)


def test_zero_shot_is_fitted_where_it_is_known():
    data = table("gigaword", 12_800, "gpt2")
    with_it, without = (
        published.predict(curves, TARGET) for curves in (data, replace(data, zero_shot=None))
    )

    assert with_it != pytest.approx(without, rel=1e-3)


def test_a_missing_cell_is_a_size_that_is_not_there():
    law = 50 / (60 + SIZES**0.5) + 1.2
    kept = np.arange(len(SIZES)) != 3

    expected = published.fit(SIZES[kept], law[None, kept])
    actual = published.fit(SIZES, np.where(kept, law, np.nan)[None])

    np.testing.assert_array_equal(actual, expected)


def test_a_random_start_is_another_start_for_the_same_law():
    law = (50 / (60 + SIZES**0.5) + 1.2)[None]
    found = published.fit(SIZES, law, np.random.default_rng(0))

    assert not np.array_equal(found, published.fit(SIZES, law))
    np.testing.assert_allclose(published.evaluate(found, SIZES), law, rtol=0.02)


def test_there_is_no_law_where_the_floor_is_above_the_loss_without_data():
    rising = Curves(("a",), SIZES, np.linspace(1, 1.1, len(SIZES))[None, :, None])

    assert np.isnan(published.predict(rising, TARGET)).all()

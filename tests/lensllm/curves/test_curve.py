import numpy as np
import pandas as pd
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import MOST_SIZES, Curves, curves_from_cells, nan_mean, thin_sizes
from lensllm.spectra.spectrum import Spectrum
from lensllm.store.schemas import schema

NAN = float("nan")


def cells(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    """Rows of curve/cells from (candidate, size, seed, bits per byte)."""
    table = pd.DataFrame(rows, columns=["candidate", "size", "repeat", "bits_per_byte"])
    table["nats_per_token"] = 2 * table["bits_per_byte"]
    table["learning_rate_integral"] = table["size"] / 1000
    table["parameters"] = table["candidate"].str.len()
    return table.reindex(columns=schema("curve/cells").names)


TABLE = cells(
    ("zeta", 0, 0, 5.0),
    ("zeta", 200, 0, 4.0),
    ("zeta", 200, 1, 3.0),
    ("zeta", 100, 0, 4.5),
    ("zeta", 400, 0, 2.5),
    ("al", 0, 0, 6.0),
    ("al", 100, 0, 5.5),
    ("al", 200, 1, np.inf),
    ("al", 800, 0, 1.0),
)


def test_cells_up_to_the_budget_become_a_cube_with_nan_for_missing_ones():
    curves = curves_from_cells(TABLE, "bits_per_byte", budget=400, spectra=None)

    assert curves.candidates == ("zeta", "al")
    np.testing.assert_array_equal([100, 200, 400], curves.sizes)
    np.testing.assert_array_equal(
        [
            [[4.5, NAN], [4.0, 3.0], [2.5, NAN]],
            [[5.5, NAN], [NAN, NAN], [NAN, NAN]],
        ],
        curves.losses,
    )
    np.testing.assert_array_equal([[4.5, 3.5, 2.5], [5.5, NAN, NAN]], curves.mean_losses)
    np.testing.assert_array_equal([5.0, 6.0], curves.zero_shot)
    np.testing.assert_array_equal([4.0, 2.0], curves.parameters)
    np.testing.assert_allclose([[0.1, 0.2, 0.4], [0.1, 0.2, NAN]], curves.stop_times)


def test_a_fine_grid_is_read_at_its_ends_and_evenly_between():
    """Of 1, 2, …, 1,000 the large ones are many and say the same."""
    sizes = np.arange(1.0, 1001.0)

    kept = thin_sizes(sizes)

    assert (kept[0], kept[-1]) == (1, 1000)
    assert len(kept) <= MOST_SIZES
    steps = np.diff(np.log(kept))
    assert steps.max() <= np.log(2)
    assert steps[-8:].max() < 1.1 * steps[-8:].min()
    np.testing.assert_array_equal(sizes[:MOST_SIZES], thin_sizes(sizes[:MOST_SIZES]))


def test_curves_have_the_sizes_that_stand_for_all():
    table = cells(*((name, size, 0, 1000 / size) for name in "ab" for size in range(1, 101)))

    curves = curves_from_cells(table, "bits_per_byte", budget=80)

    np.testing.assert_array_equal(thin_sizes(np.arange(1.0, 81.0)), curves.sizes)
    np.testing.assert_array_equal([1000 / curves.sizes] * 2, curves.mean_losses)


def test_the_metric_chooses_the_column():
    curves = curves_from_cells(TABLE, "nats_per_token", budget=200, spectra=None)

    np.testing.assert_array_equal([[9.0, 7.0], [11.0, NAN]], curves.mean_losses)


def test_what_was_not_recorded_is_none():
    table = cells(("a", 100, 0, 1.0))
    table["learning_rate_integral"] = NAN
    table["parameters"] = NAN

    curves = curves_from_cells(table, "bits_per_byte", budget=100, spectra=None)

    assert (curves.zero_shot, curves.parameters, curves.stop_times) == (None, None, None)


def test_families_stand_in_the_candidates_order():
    family = TABLE["candidate"].map({"al": "opt"})

    def read(**columns):
        return curves_from_cells(TABLE.assign(**columns), "bits_per_byte", 400).families

    assert read(family=family) == ("", "opt")
    assert read(family="gpt") == ("gpt", "gpt")
    assert read(family="") is None
    assert read(family=None) is None


def test_spectra_are_used_only_when_every_candidate_has_one():
    zeta, al = (Spectrum(np.ones(1), np.full(1, x)) for x in (1.0, 2.0))

    def read(spectra):
        return curves_from_cells(TABLE, "bits_per_byte", 400, spectra).spectra

    assert (zeta, al) == read({"al": al, "zeta": zeta})
    assert read({"al": al}) is None


@pytest.mark.parametrize(
    ("table", "metric", "budget", "sentence"),
    [
        (TABLE, "perplexity", 400, "Metric 'perplexity' is unknown"),
        (TABLE, "bits_per_byte", 50, "No finished cell has a size between 1 and the budget 50"),
        (
            cells(("a", 1000, 3, 0.0)),
            "bits_per_byte",
            2000,
            "Cell a, D = 1,000, repeat 3 has a bits_per_byte that is not positive",
        ),
        (
            cells(("a", 100, 0, 1.0), ("a", 100, 0, 2.0)),
            "bits_per_byte",
            200,
            "Cell a, D = 100, repeat 0 has two results",
        ),
    ],
)
def test_a_table_that_cannot_be_read_says_why(table, metric, budget, sentence):
    with pytest.raises(DataError, match=sentence):
        curves_from_cells(table, metric, budget, None)


def test_until_forgets_larger_sizes():
    curves = curves_from_cells(TABLE, "bits_per_byte", budget=400, spectra=None)

    known = curves.until(399)

    np.testing.assert_array_equal([100, 200], known.sizes)
    np.testing.assert_array_equal(curves.mean_losses[:, :2], known.mean_losses)
    np.testing.assert_array_equal(curves.stop_times[:, :2], known.stop_times)
    np.testing.assert_array_equal(curves.zero_shot, known.zero_shot)


EVERYTHING = Curves(
    ("a", "b", "c"),
    np.array([100.0, 200.0]),
    np.arange(1.0, 13.0).reshape(3, 2, 2),
    zero_shot=np.array([7.0, 8.0, NAN]),
    parameters=np.array([1e6, 2e6, 3e6]),
    families=("x", "", "y"),
    weight_metrics={"pl_alpha": np.array([2.0, 3.0, 4.0])},
    spectra=tuple(Spectrum(np.full(1, x), np.ones(1)) for x in (1.0, 2.0, 3.0)),
    stop_times=np.arange(6.0).reshape(3, 2),
)


def test_until_knows_the_candidates_as_before():
    known = EVERYTHING.until(100)

    for name in (
        "zero_shot", "parameters", "families", "weight_metrics", "spectra",
    ):  # fmt: skip
        assert getattr(known, name) is getattr(EVERYTHING, name)


def test_only_some_candidates_in_the_order_asked_for():
    two = EVERYTHING.only(["c", "a"])

    assert (two.candidates, two.families) == (("c", "a"), ("y", "x"))
    np.testing.assert_array_equal(two.losses, EVERYTHING.losses[[2, 0]])
    np.testing.assert_array_equal(two.zero_shot, [NAN, 7.0])
    np.testing.assert_array_equal(two.parameters, [3e6, 1e6])
    np.testing.assert_array_equal(two.weight_metrics["pl_alpha"], [4.0, 2.0])
    np.testing.assert_array_equal(two.stop_times, [[4.0, 5.0], [0.0, 1.0]])
    assert two.spectra == (EVERYTHING.spectra[2], EVERYTHING.spectra[0])
    assert two.sizes is EVERYTHING.sizes


def test_only_leaves_unknown_what_is_unknown():
    bare = Curves(("a", "b"), np.array([100.0]), np.ones((2, 1, 1))).only(["b"])

    assert bare == Curves(("b",), bare.sizes, bare.losses)


def test_last_losses_are_those_of_the_largest_finished_size():
    losses = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, NAN], [NAN, NAN, NAN]])
    curves = Curves(("a", "b", "c"), np.array([1.0, 2.0, 4.0]), losses[:, :, None])

    np.testing.assert_array_equal([1.0, 2.0, NAN], curves.last_losses)


def test_require_sizes_blanks_the_short_curves_and_refuses_when_all_are_short():
    losses = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, NAN]])
    curves = Curves(("a", "b"), np.array([1.0, 2.0, 4.0]), losses[:, :, None])

    np.testing.assert_array_equal([[3, 2, 1], [NAN] * 3], curves.require_sizes(3, "A law"))
    with pytest.raises(DataError, match="A law needs 4 finished sizes and the longest curve has 3"):
        curves.require_sizes(4, "A law")


def test_contradictory_shapes_are_refused():
    with pytest.raises(ValueError, match="losses have shape"):
        Curves(("a",), np.array([1.0]), np.ones((2, 1, 1)))
    with pytest.raises(ValueError, match="positive and ascending"):
        Curves(("a",), np.array([2.0, 1.0]), np.ones((1, 2, 1)))


def test_nan_mean_is_silent_about_empty_slices():
    np.testing.assert_array_equal([1.5, NAN], nan_mean(np.array([[1.0, 2.0], [NAN, NAN]]), axis=1))

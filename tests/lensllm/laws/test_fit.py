import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import curve_fit

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import evaluate, fit_rectified, fit_vanilla, fits_frame
from lensllm.store.schemas import schema

SIZES = 100 * 2.0 ** np.arange(12)


def log_law(D, B, beta, E, offset):
    return np.log(B / (offset + D**beta) + E)


@pytest.fixture(scope="module")
def curves():
    """Two noisy curves; the second has no floor."""
    random = np.random.default_rng(3)
    logs = np.stack([log_law(SIZES, 900, 0.75, 0.8, 150), log_law(SIZES, 60, 0.5, 0.0, 12)])
    losses = np.exp(logs + 0.004 * random.standard_normal(logs.shape))
    return Curves(("a", "b"), SIZES, losses[:, :, None])


def test_standard_errors_are_those_of_curve_fit(curves):
    fit = fit_rectified(curves)
    at = (fit.B[0], fit.beta[0], fit.E[0], fit.offset[0])

    _, covariance = curve_fit(log_law, SIZES, np.log(curves.mean_losses[0]), p0=at)

    ours = (fit.B_stderr[0], fit.beta_stderr[0], fit.E_stderr[0], fit.offset_stderr[0])
    np.testing.assert_allclose(ours, np.sqrt(np.diag(covariance)), rtol=2e-3)


def test_a_parameter_on_its_bound_has_no_standard_error(curves):
    fit = fit_vanilla(curves)

    assert np.isnan(fit.offset_stderr).all()
    assert np.isnan(fit.E_stderr[fit.E == 0]).all()
    assert np.isfinite(fit.beta_stderr).all()


def test_there_is_no_standard_error_without_a_degree_of_freedom(curves):
    fit = fit_rectified(curves.until(SIZES[3]))

    for errors in (fit.B_stderr, fit.beta_stderr, fit.E_stderr, fit.offset_stderr):
        assert np.isnan(errors).all()


def test_rmse_log_is_that_of_the_prediction(curves):
    fit = fit_rectified(curves)
    residuals = np.log(fit.predict(SIZES) / curves.mean_losses)

    np.testing.assert_allclose(fit.rmse_log, np.sqrt((residuals**2).mean(1)), rtol=1e-6)


def test_the_frame_has_the_schema_and_a_row_evaluates_to_the_prediction(curves):
    fits = [fit_vanilla(curves), fit_rectified(curves)]
    frame = fits_frame(fits)

    assert schema("law/fits").names == list(frame.columns)
    assert (
        pa.Table.from_pandas(frame, schema=schema("law/fits"), preserve_index=False).num_rows == 4
    )
    assert list(zip(frame["candidate"], frame["law"], strict=True)) == [
        ("a", "vanilla"),
        ("b", "vanilla"),
        ("a", "rectified"),
        ("b", "rectified"),
    ]
    np.testing.assert_array_equal(fits[1].predict(SIZES)[1], evaluate(frame.iloc[3], SIZES))


def test_an_almost_flat_curve_has_no_transition_rather_than_an_overflow():
    losses = 1 + 1e-3 / np.log(SIZES)
    fit = fit_rectified(Curves(("a",), SIZES, losses[None, :, None]))

    assert fit.transition_size[0] >= 0
    assert np.isfinite(fit.predict(1e7)).all()


# --- the rectified law -----------------------------------------------------------------------------

SEVEN = 100 * 2.0 ** np.arange(7)


def test_the_rectified_law_recovers_the_pre_learned_size_and_the_transition():
    losses = 500 / (120 + SEVEN**0.8) + 0.9
    fit = fit_rectified(Curves(("a",), SEVEN, losses[None, :, None]))

    np.testing.assert_allclose(fit.offset, 120, rtol=1e-4)
    np.testing.assert_allclose(fit.transition_size, 120 ** (1 / 0.8), rtol=1e-4)
    np.testing.assert_allclose(
        fit.predict([1e3, 1e6]), [500 / (120 + np.array([1e3, 1e6]) ** 0.8) + 0.9], rtol=1e-5
    )


def test_seeds_count_through_their_mean():
    losses = (500 / (120 + SEVEN**0.8) + 0.9)[None, :, None] * np.array([0.9, 1.1])
    fit = fit_rectified(Curves(("a",), SEVEN, losses))

    np.testing.assert_allclose(fit.E, 0.9, rtol=1e-4)


def test_a_candidate_with_failed_cells_is_fitted_while_four_remain():
    losses = np.tile(500 / (120 + SEVEN**0.8) + 0.9, (2, 1))
    losses[0, [1, 4]] = np.nan
    losses[1, 1:5] = np.nan
    fit = fit_rectified(Curves(("a", "b"), SEVEN, losses[:, :, None]))

    np.testing.assert_array_equal(fit.sizes, [5, 0])
    np.testing.assert_allclose(fit.offset, [120, np.nan], rtol=1e-3)
    assert np.isnan([fit.B[1], fit.E[1], fit.rmse_log[1], fit.transition_size[1]]).all()


def test_three_sizes_are_too_few_for_the_rectified_law():
    with pytest.raises(DataError, match="The rectified law needs 4 finished sizes"):
        fit_rectified(Curves(("a",), SEVEN[:3], np.ones((1, 3, 1))))


# --- the vanilla law -------------------------------------------------------------------------------

FOUR = np.array([100.0, 200.0, 400.0, 800.0])


def test_the_vanilla_law_recovers_a_power_law_with_a_floor():
    losses = np.stack([8 / FOUR**0.5 + 1, 3 / FOUR**0.2])
    fit = fit_vanilla(Curves(("a", "b"), FOUR, losses[:, :, None]))

    np.testing.assert_allclose(fit.B, [8, 3], rtol=1e-4)
    np.testing.assert_allclose(fit.beta, [0.5, 0.2], rtol=1e-4)
    np.testing.assert_allclose(fit.E, [1, 0], atol=1e-4)
    np.testing.assert_array_equal(fit.offset, [0, 0])
    np.testing.assert_array_equal(fit.transition_size, [0, 0])
    assert (fit.law, fit.candidates) == ("vanilla", ("a", "b"))


def test_two_sizes_are_too_few_for_the_vanilla_law():
    with pytest.raises(DataError, match="The vanilla law needs 3 finished sizes"):
        fit_vanilla(Curves(("a",), FOUR[:2], np.ones((1, 2, 1))))

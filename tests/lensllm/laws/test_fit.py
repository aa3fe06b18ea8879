import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import curve_fit

from lensllm.curves.curve import Curves
from lensllm.laws import rectified, vanilla
from lensllm.laws.fit import evaluate, fits_frame
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
    fit = rectified.fit(curves)
    at = (fit.B[0], fit.beta[0], fit.E[0], fit.offset[0])

    _, covariance = curve_fit(log_law, SIZES, np.log(curves.mean_losses[0]), p0=at)

    ours = (fit.B_stderr[0], fit.beta_stderr[0], fit.E_stderr[0], fit.offset_stderr[0])
    np.testing.assert_allclose(ours, np.sqrt(np.diag(covariance)), rtol=2e-3)


def test_a_parameter_on_its_bound_has_no_standard_error(curves):
    fit = vanilla.fit(curves)

    assert np.isnan(fit.offset_stderr).all()
    assert np.isnan(fit.E_stderr[fit.E == 0]).all()
    assert np.isfinite(fit.beta_stderr).all()


def test_there_is_no_standard_error_without_a_degree_of_freedom(curves):
    fit = rectified.fit(curves.until(SIZES[3]))

    for errors in (fit.B_stderr, fit.beta_stderr, fit.E_stderr, fit.offset_stderr):
        assert np.isnan(errors).all()


def test_rmse_log_is_that_of_the_prediction(curves):
    fit = rectified.fit(curves)
    residuals = np.log(fit.predict(SIZES) / curves.mean_losses)

    np.testing.assert_allclose(fit.rmse_log, np.sqrt((residuals**2).mean(1)), rtol=1e-6)


def test_the_frame_has_the_schema_and_a_row_evaluates_to_the_prediction(curves):
    fits = [vanilla.fit(curves), rectified.fit(curves)]
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
    fit = rectified.fit(Curves(("a",), SIZES, losses[None, :, None]))

    assert fit.transition_size[0] >= 0
    assert np.isfinite(fit.predict(1e7)).all()

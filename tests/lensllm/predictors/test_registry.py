from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves import Curves
from lensllm.errors import DataError
from lensllm.laws import lensllm, rectified, vanilla
from lensllm.predictors import PREDICTORS
from lensllm.spectrum import Spectrum

SIZES = 100 * 2.0 ** np.arange(7)
LAWS = {
    "vanilla": vanilla.fit,
    "rectified": rectified.fit,
    "lensllm": lambda curves: lensllm.fit(curves, "prediction"),
    "lensllm_phase": lambda curves: lensllm.fit(curves, "phase"),
}


@pytest.fixture(scope="module")
def curves():
    """Four curves with everything a predictor may ask for."""
    random = np.random.default_rng(2)
    beta, E = random.uniform(0.4, 0.9, 4)[:, None], random.uniform(0.5, 1.5, 4)[:, None]
    losses = 200 / (80 + SIZES**beta) + E
    losses = losses[:, :, None] * np.exp(0.003 * random.standard_normal((4, len(SIZES), 2)))
    return Curves(
        ("a", "b", "c", "d"),
        SIZES,
        losses,
        zero_shot=losses[:, 0, 0] * 1.5,
        parameters=np.array([1e6, 3e6, 2e6, 9e6]),
        spectra=tuple(
            Spectrum(np.sort(random.lognormal(0, 2, 16))[::-1], random.random(16)) for _ in range(4)
        ),
        stop_times=np.tile(random.uniform(0.1, 1, (4, 1)), len(SIZES)),
    )


def test_the_names():
    assert {
        "zero_shot",
        "model_size",
        "sub_tuning",
        "vanilla",
        "rectified",
        "ats",
        "lensllm",
        "lensllm_phase",
    } == set(PREDICTORS)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_predicts_its_fit_at_the_target(curves, name):
    expected = LAWS[name](curves).predict(1e5)[:, 0]

    np.testing.assert_array_equal(expected, PREDICTORS[name].predict(curves, 1e5).loss)


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_predicts_every_candidate_from_just_the_sizes_it_says_it_needs(curves, name):
    predictor = PREDICTORS[name]
    fewest = max(predictor.needed_sizes, 1)

    predicted = predictor.predict(curves.until(SIZES[fewest - 1]), 1e4).loss

    assert np.all(predicted > 0)
    if fewest > 1:
        with pytest.raises(DataError, match="finished sizes"):
            predictor.predict(curves.until(SIZES[fewest - 2]), 1e4)


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_unit_of_the_loss_does_not_matter(curves, name):
    doubled = replace(curves, losses=2 * curves.losses, zero_shot=2 * curves.zero_shot)
    expected, actual = (PREDICTORS[name].predict(c, 1e4).loss for c in (curves, doubled))

    np.testing.assert_allclose(actual, 2 * expected, rtol=1e-4)

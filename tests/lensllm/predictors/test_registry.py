from dataclasses import replace

import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import fit_lensllm, fit_rectified, fit_vanilla
from lensllm.predictors import PREDICTORS, Mixture, needed_sizes, with_settings
from lensllm.selection.backtest import Backtest
from lensllm.spectra.spectrum import Spectrum

SIZES = 100 * 2.0 ** np.arange(7)
TARGETS = np.array([1e4, 1e5])
LAWS = {
    "vanilla": fit_vanilla,
    "rectified": fit_rectified,
    "lensllm": lambda curves: fit_lensllm(curves, "prediction"),
    "lensllm_phase": lambda curves: fit_lensllm(curves, "phase"),
    "lensllm_pooled": lambda curves: fit_lensllm(curves, "pooled"),
}
MIXTURES = [name for name, predictor in PREDICTORS.items() if isinstance(predictor, Mixture)]
PLAIN = [name for name in PREDICTORS if name not in MIXTURES]
WITH_PRIOR_LOSS = ["hrb", *MIXTURES]  # HRB has seen losses before, in a unit


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
        families=("x", "y", "", "y"),
        weight_metrics={name: random.uniform(2, 6, 4) for name in ("pl_alpha", "e_tpl_lambda")},
        spectra=tuple(
            Spectrum(np.sort(random.lognormal(0, 2, 16))[::-1], random.random(16)) for _ in range(4)
        ),
        stop_times=np.tile(random.uniform(0.1, 1, (4, 1)), len(SIZES)),
    )


def answer(name, curves, target=1e4, registry=PREDICTORS):
    """(M,) losses at the target."""
    return Backtest(curves, target, registry).ask(name, len(curves.sizes)).loss[:, -1]


def test_the_names():
    assert set(PREDICTORS) == {
        "zero_shot",
        "model_size",
        "sub_tuning",
        "vanilla",
        "rectified",
        "ats",
        "hrb",
        "blend",
        "stack",
        "lensllm",
        "lensllm_phase",
        "lensllm_pooled",
        "pl_alpha",
        "e_tpl_lambda",
    }


@pytest.mark.parametrize("name", LAWS)
def test_a_law_predicts_its_fit_at_the_targets(curves, name):
    expected = LAWS[name](curves).predict(TARGETS)

    np.testing.assert_array_equal(PREDICTORS[name].predict(curves, TARGETS).loss, expected)


@pytest.mark.parametrize("name", PLAIN)
def test_every_target_is_predicted_as_if_alone(curves, name):
    predict = PREDICTORS[name].predict
    alone = [predict(curves, TARGETS[[t]]).loss[:, 0] for t in (0, 1)]

    np.testing.assert_allclose(predict(curves, TARGETS).loss, np.transpose(alone), rtol=1e-9)


@pytest.mark.parametrize("gamma", [2, 3, 5])
@pytest.mark.parametrize("name", PREDICTORS)
def test_it_predicts_every_candidate_from_just_the_sizes_it_says_it_needs(curves, name, gamma):
    registry = with_settings({"ats": {"gamma": gamma}})
    fewest = max(needed_sizes(name, registry), 1)

    assert np.all(answer(name, curves.until(SIZES[fewest - 1]), registry=registry) > 0)
    if fewest > 1:
        with pytest.raises(DataError, match="finished sizes"):
            answer(name, curves.until(SIZES[fewest - 2]), registry=registry)


@pytest.mark.parametrize("name", [name for name in PREDICTORS if name not in WITH_PRIOR_LOSS])
def test_the_unit_of_the_loss_does_not_matter(curves, name):
    doubled = replace(curves, losses=2 * curves.losses, zero_shot=2 * curves.zero_shot)

    np.testing.assert_allclose(answer(name, doubled), 2 * answer(name, curves), rtol=1e-4)


@pytest.mark.parametrize("name", WITH_PRIOR_LOSS)
def test_a_belief_about_the_floor_matters_little(curves, name):
    in_bits = replace(curves, losses=curves.losses / np.log(2))
    expected = answer(name, curves) / np.log(2)

    np.testing.assert_allclose(answer(name, in_bits), expected, rtol=0.02)


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_order_of_the_candidates_does_not_matter(curves, name):
    actual = answer(name, curves.only(["c", "a", "d", "b"]))

    np.testing.assert_allclose(actual, answer(name, curves)[[2, 0, 3, 1]], rtol=1e-4)

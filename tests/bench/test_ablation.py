"""The controls are what they are called."""

import numpy as np
import pytest

from bench import ablation
from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import fit_lensllm
from lensllm.spectra.spectrum import Spectrum

SIZES = 100 * 2.0 ** np.arange(6)
OFFSET = 30.0
K = np.arange(1, 17.0)


def curves():
    """Three rectified laws of one offset, and kernels of their own."""
    beta, floor, top = np.array([[0.5], [0.6], [0.7]]), np.array([[0.5], [0.8], [0.2]]), 90.0
    losses = floor + top / (OFFSET + SIZES**beta)
    spectra = tuple(Spectrum(K**-decay, K**-2.0) for decay in (0.5, 1.0, 1.5))
    times = np.tile([[1.0], [2.0], [3.0]], (1, len(SIZES)))
    return Curves(
        ("a", "b", "c"), SIZES, losses[:, :, None], np.ones(3), np.array([1e5, 2e5, 4e5]),
        spectra=spectra, stop_times=times,
    )  # fmt: skip


@pytest.fixture
def case():
    known = curves()
    return ablation.Case(known.until(1600), known.losses[:, -1, 0], SIZES[-1])


def test_one_shared_offset_is_one_and_is_found():
    fit = fit_lensllm(ablation.shared(curves()), mode="phase")

    np.testing.assert_allclose(fit.offset, fit.offset[0])
    np.testing.assert_allclose(fit.offset, OFFSET, rtol=0.05)


def test_shuffles_give_every_candidate_one_of_the_kernels(monkeypatch):
    monkeypatch.setattr(ablation, "SHUFFLES", 50)
    known = curves()

    place = {id(spectrum): i for i, spectrum in enumerate(known.spectra)}
    orders = {tuple(place[id(s)] for s in other.spectra) for other in ablation.shuffled(known)}

    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)}
    assert len(orders) == 6


def test_an_error_shared_by_all_is_nobodys_own():
    truth = np.array([1.0, 2.0, 3.0])

    assert ablation.own_error(truth * 1.3, truth) == pytest.approx(0)
    assert ablation.own_error(truth * [1.1, 1, 1 / 1.1], truth) == pytest.approx(
        np.log(1.1) * np.sqrt(2 / 3)
    )


def test_every_table_has_its_rows(monkeypatch, case):
    monkeypatch.setattr(ablation, "SHUFFLES", 2)

    scored = ablation.at_the_budget("zoo", case)

    assert "zoo: 3 candidates, D ≤ 1,600, target 3,200" in scored
    assert all(f"| {name} |" in scored for name in ("rectified", "hrb_kernel", "stack_kernel"))
    assert "| hrb | " in ablation.by_budget("zoo", case)
    assert "| 1,600 | hrb_kernel |" in ablation.controls("zoo", case)
    assert "without c" in ablation.rivals("zoo", case)
    assert "| b |" in ablation.promises("zoo", case)


def test_a_pipeline_that_has_not_finished_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(ablation, "ARTIFACTS", tmp_path / "nothing")

    with pytest.raises(DataError, match=r"Pipeline names has not finished .*`lensllm run names`"):
        ablation.case("names")

"""Kernels as numbers."""

from dataclasses import replace

import numpy as np
import pytest

from lensllm.report import diagnostic_tables
from lensllm.spectra.spectrum import by_probes, spectrum, standard_error


def with_kernel(data, matrix, kernel, norms):
    """``data`` with one kernel, of the t5."""
    name = "t5-mini-docs"
    return replace(
        data, kernels={name: spectrum(kernel, norms)}, matrices={name: matrix(kernel, norms)}
    )


def test_a_flat_kernel_has_full_rank(data, matrix):
    """n equal eigenvalues: effective rank n, and every direction decays alike."""
    norms = np.sqrt(np.arange(1.0, 21.0))
    (row,) = diagnostic_tables.kernels(with_kernel(data, matrix, 10 * np.eye(20), norms))
    assert (row.candidate, row.probes) == ("t5-mini-docs", 20)
    assert pytest.approx(row.residual) == 210
    assert pytest.approx(row.effective_rank) == 20
    shares = [share.value for share in row.left]  # of 16 and of all 20 probes
    assert np.exp(-2 * 10 * row.time / np.array([16, 20])) == pytest.approx(shares)


def test_the_time_is_that_of_the_sizes_paid_for(data):
    """The median over the sizes, as the law takes it; the target's own run is not known then."""
    (time,) = {row.time for row in diagnostic_tables.kernels(data)}
    sizes = sorted(size for size in data.cells["size"].unique() if 0 < size <= data.budget)
    assert time == pytest.approx(1e-3 * np.median(sizes) * 3 / 16 / 2)


def test_shares_stand_under_the_number_of_probes_they_come_from(data):
    """From 16 on, doubling, and everything there is; each with its own error."""
    assert diagnostic_tables.probe_counts(data) == [16, 32, 40]
    name = data.candidates[0]
    row = diagnostic_tables.kernels(data)[0]
    kernel, norms = diagnostic_tables.probes(data, name)
    assert row.left[-1].value == pytest.approx(float(data.kernels[name].share(row.time)))
    assert row.left[-1].error == pytest.approx(float(standard_error(kernel, norms, row.time)))
    values, errors = by_probes(kernel, norms, [16], row.time)
    assert (row.left[0].value, row.left[0].error) == (values[0], errors[0])


def test_what_a_candidate_cannot_tell_is_left_open(data, matrix):
    """Fewer probes than another one's, or no flow time."""
    few = with_kernel(data, matrix, np.eye(20), np.ones(20))
    both = replace(
        few,
        kernels={**data.kernels, **few.kernels},
        matrices={**data.matrices, **few.matrices},
    )
    rows = {row.candidate: row for row in diagnostic_tables.kernels(both)}
    assert [share is None for share in rows["t5-mini-docs"].left] == [False, True, True]
    untimed = replace(data, cells=data.cells.assign(learning_rate_integral=np.nan))
    assert {share for row in diagnostic_tables.kernels(untimed) for share in row.left} == {None}


def test_nothing_to_show(data):
    """No kernels are no rows."""
    assert diagnostic_tables.kernels(replace(data, kernels={}, matrices={})) == []

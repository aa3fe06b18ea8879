"""Kernels and layers as numbers."""

from dataclasses import replace

import numpy as np
import pytest

from lensllm.report import diagnostic_tables
from lensllm.spectrum import Spectrum


def test_a_flat_kernel_has_full_rank(data):
    """n equal eigenvalues: effective rank n, and every direction decays alike."""
    flat = Spectrum(np.full(8, 0.5), np.arange(1.0, 9.0))
    (row,) = diagnostic_tables.kernels(replace(data, kernels={"t5-mini-docs": flat}))
    assert (row.candidate, row.probes) == ("t5-mini-docs", 8)
    assert pytest.approx(row.residual) == 36
    assert pytest.approx(row.effective_rank) == 8
    assert np.exp(-2 * 0.5 * row.time) == pytest.approx(row.left)


def test_layers_show_the_largest_terms_of_the_largest_cell(data):
    """What is left out is said as its share of Σ √h."""
    name = data.candidates[0]
    small = data.layers[name, 3200, 0].iloc[:1]
    tables = diagnostic_tables.layers(replace(data, layers={**data.layers, (name, 100, 0): small}))
    first = tables[0]
    assert (name, 3200, 0, 12) == (first.candidate, first.size, first.seed, first.hidden)
    roots = np.sqrt(np.sort(data.layers[name, 3200, 0]["vhv_positive_max"])[::-1])
    assert roots[12:].sum() / roots.sum() == pytest.approx(first.hidden_share)
    assert first.shown["vhv_positive_max"].is_monotonic_decreasing


def test_nothing_to_show(data):
    """No kernels and no layers are no rows."""
    bare = replace(data, kernels={}, layers={})
    assert [] == diagnostic_tables.kernels(bare) == diagnostic_tables.layers(bare)

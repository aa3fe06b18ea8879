"""The diagnostics' figures show the tables' numbers."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lensllm.report import diagnostic_figures, diagnostic_tables, style
from lensllm.spectra.spectrum import standard_error


def test_decay_is_the_spectrums_own(data):
    """The curve of a candidate is F(t)/F(0) of its spectrum."""
    right = diagnostic_figures.kernels(data).axes[1]
    line = next(line for line in right.get_lines() if to_hex(line.get_color()) == style.PALETTE[0])
    spectrum = data.kernels[data.candidates[0]]
    expected = spectrum.share(line.get_xdata())
    np.testing.assert_allclose(expected, line.get_ydata())


def test_named_candidates_have_a_band_of_one_standard_error(make):
    """The crowd has none: fifty bands are one grey surface."""
    data = make([(f"m{i:02d}", 10**6) for i in range(12)])
    right = diagnostic_figures.kernels(data).axes[1]
    assert len(right.collections) == len(style.PALETTE)
    band = next(b for b in right.collections if to_hex(b.get_facecolor()[0]) == style.PALETTE[0])
    corners = band.get_paths()[0].vertices
    name = next(n for n, look in style.looks(data).items() if look.colour == style.PALETTE[0])
    times = np.unique(corners[:, 0])
    error = standard_error(*diagnostic_tables.probes(data, name), times)
    share = data.kernels[name].share(times)
    for place in (0, 40, 80, 159):
        heights = corners[corners[:, 0] == times[place], 1]
        assert heights.max() == pytest.approx(share[place] + error[place])
        assert heights.min() == pytest.approx(max(share[place] - error[place], 0))


def test_kernels_are_drawn_without_a_trained_cell(data):
    """Zero-shot cells have no flow time; the kernels' own time scale is used."""
    zero = replace(data, cells=data.cells[data.cells["size"] == 0])
    low, high = diagnostic_figures.kernels(zero).axes[1].get_xlim()
    assert 0 < low < high


@pytest.mark.parametrize(("layout", "columns"), [(style.WIDE, 3), (style.NARROW, 1)])
def test_drift_panels_stand_side_by_side_or_stacked(data, layout, columns):
    """On a phone the panels are stacked."""
    drawing = diagnostic_figures.drift(data, layout)
    assert columns == len({round(axes.get_position().x0, 6) for axes in drawing.axes})
    line = drawing.axes[0].get_lines()[0]
    assert list(data.drift["target_length_ks"]) == list(line.get_ydata())

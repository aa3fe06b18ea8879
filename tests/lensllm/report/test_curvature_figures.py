"""The bound's terms and the density of the Hessian's eigenvalues, as drawn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lensllm.report import curvature_figures, style


def test_bound_stacks_its_terms(data):
    """Both bars of a cell together are as long as the bound."""
    axes = curvature_figures.bound(data).axes[0]
    second = axes.patches[len(axes.patches) // 2 :]
    ends = sorted(bar.get_x() + bar.get_width() for bar in second)
    assert sorted(data.bounds["bound"]) == pytest.approx(ends)


def test_what_is_known_without_the_bound_stands_beside_it(data):
    """The lower of C and ln V, where a bound says nothing."""
    bounds = data.bounds.copy()
    bounds.loc[bounds["candidate"] == data.candidates[0], "loss_bound"] = 5.0
    axes = curvature_figures.bound(replace(data, bounds=bounds)).axes[0]
    (marks,) = [line for line in axes.get_lines() if line.get_marker() == "|"]
    assert [5.0, 5.0, *[7.6] * 10] == list(marks.get_xdata())


def test_many_bounds_keep_the_largest_cell_of_each_candidate(make):
    """Fifty candidates of two cells would be a hundred bars."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    axes = curvature_figures.bound(data).axes[0]
    assert len(axes.patches) == 2 * 24


def test_the_area_under_a_density_is_one(data):
    """Whatever the nodes are, on the axis on which they are broadened."""
    places = np.linspace(-12, 12, 4001)
    for rows in data.densities.values():
        values = curvature_figures.broadened(rows, 0.1, places)
        assert np.trapezoid(values, places) == pytest.approx(1)


def test_a_node_is_broadened_by_a_share_of_itself():
    """Far from 0, where asinh is the logarithm, it falls by e^(−1/2) at e^(±.3) times the node."""
    rows = pd.DataFrame({"eigenvalue": [50.0], "weight": [1.0]})
    places = np.arcsinh(50 * np.exp([-0.3, 0.0, 0.3]) / 0.01)
    values = curvature_figures.broadened(rows, 0.01, places)
    assert values / values[1] == pytest.approx(np.exp([-0.5, 0, -0.5]), rel=1e-4)


def test_density_draws_each_candidate_in_its_colour(data):
    """One line each, of what was measured only, from the smallest node to the largest."""
    *some, missing = data.densities
    drawn = replace(data, densities={name: data.densities[name] for name in some})
    axes = curvature_figures.density(drawn).axes[0]
    looks = style.looks(data)
    assert {looks[name].colour for name in some} == {
        to_hex(line.get_color()) for line in axes.get_lines()
    }
    assert looks[missing].colour not in {to_hex(line.get_color()) for line in axes.get_lines()}
    low, high = np.sinh(axes.get_xlim()) * curvature_figures.linear_scale(drawn)
    assert low < -9 < 44 < high


def test_ticks_of_the_density_are_eigenvalues(data):
    """Zero and powers of ten on both sides, where the line has them."""
    axes = curvature_figures.density(data).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["−10", "−1", "0", "1", "10", "100"]
    # 45 is the largest eigenvalue, a hundredth of it nearest to 1, up to which the axis is linear
    assert np.arcsinh([-10, -1, 0, 1, 10, 100]) == pytest.approx(axes.get_xticks())


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_a_crowd_has_one_name(make, layout):
    """Eight names and the others'."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    drawing = curvature_figures.density(data, layout)
    names = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert len(names) == 9
    assert names[-1] == "the others"
    assert len(drawing.axes[0].get_lines()) == 50

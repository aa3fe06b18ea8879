"""Panels and their axes."""

import pytest

from lensllm.report import panels, style


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, [0]), (2, [0, 1]), (5, [0, 1, 2, 3, 4]), (7, [0, 2, 4, 6]), (8, [0, 2, 4, 5, 7]),
     (13, [0, 3, 6, 9, 12])],
)  # fmt: skip
def test_at_most_five_sizes_are_named_first_and_last_among_them(count, named):
    """Evenly where that is possible."""
    sizes = [200 * 2**i for i in range(count)]
    with style.style():
        _, (axes,) = panels.panels(style.WIDE, 1, 2.5, 0.0)
        panels.size_axis(axes, sizes, "D", style.WIDE)
    assert [sizes[i] for i in named] == [int(tick) for tick in axes.get_xticks()]

"""One picture of learning curves, for notebooks: measured losses, fitted laws and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensllm.core.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lensllm.curves.curve import Curves
    from lensllm.laws import LawFit

_POINTS = 100  # of a line
_MARKERS = "osv^P"  # another one after every ten colours


def plot_curves(
    curves: Curves,
    fit: LawFit | None = None,
    ranking: pd.DataFrame | None = None,
    target: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss of every candidate against the number of training examples, both in log scale.

    Points are means over the seeds, with a bar from the lowest to the highest seed. Lines are those
    of a fitted law, out to ``target``; without a law the points are joined. ``ranking`` is
    drawn at ``target``: predictions with 80 % intervals.

    Args:
        curves: M candidates at S sizes.
        fit: a law fitted to the same curves, from ``fit_law``.
        ranking: rows with ``candidate``, ``predicted``, ``low`` and ``high``, one a candidate.
        target: training examples that the ranking is for.
        ax: axes to draw on; new ones are made without.

    Returns:
        The axes, with a legend; ``ax.figure.savefig(…)`` writes the picture.

    Raises:
        DataError: there is a ``ranking`` and no ``target``.

    >>> import numpy as np
    >>> from lensllm.curves.curve import Curves
    >>> from lensllm.laws import fit_law
    >>> sizes = 100 * 2.0 ** np.arange(6)
    >>> losses = np.array([3.0, 5.0])[:, None] * sizes**-0.2
    >>> curves = Curves(("small", "large"), sizes, losses[:, :, None])
    >>> ax = plot_curves(curves, fit_law(curves, "vanilla"), target=12_800)
    >>> ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('training examples', ['small', 'large'])
    """
    if ranking is not None and target is None:
        raise DataError(
            "plot_curves: a ranking is drawn at a size: give target=… as for rank_curves"
        )
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.subplots(layout="constrained")[1]
    means = curves.mean_losses
    filled = np.where(np.isfinite(curves.losses), curves.losses, means[:, :, None])
    below, above = means - filled.min(-1), filled.max(-1) - means
    end = max(float(curves.sizes[-1]), target or 0.0)
    line_sizes = np.geomspace(curves.sizes[0], end, _POINTS)
    lines = None if fit is None else fit.predict(line_sizes)
    rows = None if ranking is None else ranking.set_index("candidate")
    for m, name in enumerate(curves.candidates):
        color = f"C{m}"
        ax.errorbar(
            curves.sizes,
            means[m],
            yerr=np.stack([below[m], above[m]]),
            fmt=_MARKERS[m // 10 % len(_MARKERS)] + ("" if lines is not None else "-"),
            color=color,
            label=name,
            markersize=4,
            linewidth=1,
        )
        if lines is not None:
            ax.plot(line_sizes, lines[m], color=color, linewidth=1)
        if rows is not None and target is not None and name in rows.index:
            row = rows.loc[name]
            reach = np.array([[row["predicted"] - row["low"]], [row["high"] - row["predicted"]]])
            ax.errorbar(target, row["predicted"], yerr=reach, fmt="D", color=color, capsize=3)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_xlabel("training examples")
    ax.set_ylabel("loss")
    ax.legend(fontsize="small")
    return ax

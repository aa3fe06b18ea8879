"""How good the predictors are at every budget."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lensllm.report import style
from lensllm.report.data import ReportData
from lensllm.report.labels import Label, direct_labels
from lensllm.report.panels import heading, panels, size_axis
from lensllm.report.predictor_tables import by_budget
from lensllm.report.style import CROWD, MARKERS, PALETTE, WIDE, Layout, Look

_NAMED = 5  # lines that still can be told apart; the tables have all of them


def budgets(data: ReportData, layout: Layout = WIDE) -> Figure:
    """Every score against the budget: the default predictor and the best others in colour."""
    tables = by_budget(data)
    looks = {
        name: Look(place, PALETTE[place], MARKERS[place]) if place < _NAMED else CROWD
        for place, name in enumerate(tables[0].values.index)
    }
    with style.style():
        figure, all_axes = panels(layout, len(tables), 3.1, 0.62 * layout.label_inches)
        for axes, table in zip(all_axes, tables, strict=True):
            scores = table.values[data.budgets]
            low = min(0.0, float(np.nanmin(scores)))
            axes.set_ylim(low - 0.03, 1.03)
            size_axis(axes, data.budgets, "Budget, largest D known", layout)
            heading(axes, f"{table.heading} (1 is best)", layout)
            labels = []
            for name, look in reversed(looks.items()):
                axes.plot(
                    data.budgets, scores.loc[name], **_ink(look, name == data.default_predictor)
                )
                last = float(scores.loc[name].iloc[-1])
                if look is not CROWD and np.isfinite(last):
                    labels.append(Label((last - low + 0.03) / (1.06 - low), name, look))
            if axes is all_axes[-1] or layout.columns == 1:
                direct_labels(axes, labels[::-1], layout)
    return figure


def _ink(look: Look, default: bool) -> dict[str, Any]:
    if look is CROWD:
        return {"color": look.colour, "linewidth": 0.8, "zorder": 2}
    return {
        "color": look.colour, "marker": look.marker, "markersize": 4.5 if default else 3.5,
        "linewidth": 2.2 if default else 1.2, "zorder": 4 if default else 3, "clip_on": False,
    }  # fmt: skip

"""One self-contained page: no script, nothing fetched, light and dark, for screens and paper."""

from __future__ import annotations

import math
from collections.abc import Callable

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from lensllm.report import check, diagnostic_figures, diagnostic_tables, figure, style, tables, text
from lensllm.report.data import ReportData

_FILTERS = (
    text.loss, text.score, text.change, text.significant, text.rough, text.percent, text.size,
    text.short, text.flops, text.memory, text.seconds,
)  # fmt: skip


def render(data: ReportData) -> str:
    """The report as HTML; equal data give equal text."""
    spent = tables.cost(data)
    predictors = tables.predictors(data)
    drawn, other = tables.laws(data)
    return _template().render(
        data=data,
        ranking=tables.ranking(data),
        scale=tables.scale(data),
        unranked=[name for name in data.candidates if name not in set(data.ranking["candidate"])],
        incomplete=tables.incomplete(data),
        check=check.was_it_right(data),
        predictors=predictors,
        scores=tables.SCORES,
        best_scores=tables.best_scores(predictors),
        laws=drawn,
        other_laws=other,
        kernels=diagnostic_tables.kernels(data),
        layers=diagnostic_tables.layers(data),
        cost=spent,
        total=tables.total(spent),
        log_candidates=math.log(len(data.ranking)),
        nan=math.nan,
        figures=_figures(data),
        looks=style.looks(data),
        config=yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensllm.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in _FILTERS}
    return environment.get_template("page.html.j2")


def _figures(data: ReportData) -> dict[str, tuple[Markup, Markup]]:
    """The figures that have something to show, each for wide and for narrow screens."""
    drawings: dict[str, tuple[Callable[[ReportData, style.Layout], Figure], str]] = {
        "curves": (figure.curves, "Learning curves of the candidates, measured and extrapolated")
    }
    if data.kernels:
        drawings["kernels"] = (
            diagnostic_figures.kernels,
            "Kernel spectra and decay of the residual",
        )
    if len(data.bounds):
        drawings["bound"] = (diagnostic_figures.bound, "Terms of the Hessian bound for each cell")
    if len(data.drift):
        drawings["drift"] = (diagnostic_figures.drift, "Distance of each subset from the full set")
    return {
        name: (
            _inline(draw(data, style.WIDE), f"{name}-wide", words),
            _inline(draw(data, style.NARROW), f"{name}-narrow", words),
        )
        for name, (draw, words) in drawings.items()
    }


def _inline(drawing: Figure, name: str, description: str) -> Markup:
    # matplotlib escapes every text it writes into an SVG, so the drawing is safe as it stands
    return Markup(style.svg(drawing, name, description))

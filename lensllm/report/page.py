"""One self-contained page: no script, nothing fetched, light and dark, for screens and paper."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lensllm.predictors import names_reading
from lensllm.report import (
    answer_tables,
    curvature_figures,
    curve_figure,
    diagnostic_figures,
    diagnostic_tables,
    style,
    text,
)
from lensllm.report.result import Result


def render(result: Result) -> str:
    """The report as HTML; equal data give equal text."""
    return render_template(
        "page.html.j2",
        result=result,
        figures=_figures(result),
        looks=style.looks(result),
        config=result.config,
        answer=answer_tables,
        diagnostics=diagnostic_tables,
        names_reading=names_reading,
        density_scale=curvature_figures.linear_scale(result) if result.densities else math.nan,
        broadening=curvature_figures.BROADENING,
        nan=math.nan,
        infinity=math.inf,
        log_candidates=math.log(len(result.ranking)),
    )


def render_template(name: str, config: Any, **values: Any) -> str:
    """A page of ``templates/``, with the filters that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensllm.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(inspect.getmembers(text, inspect.isfunction))
    environment.filters["breakable"] = breakable
    resolved = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return environment.get_template(name).render(config=resolved, **values)


def breakable(name: str) -> Markup:
    """``name``, escaped, that may go on in a new line after an owner or folder."""
    return Markup(escape(name).replace("/", Markup("/<wbr>")))


Draw = Callable[[Any, style.Layout], Figure]


def drawings(name: str, draw: Draw, result: Any, description: str) -> tuple[Markup, Markup]:
    """A figure as SVG elements of the page, for wide and for narrow screens."""
    # matplotlib escapes every text it writes into an SVG, so the drawing is safe as it stands
    return (
        Markup(style.svg(draw(result, style.WIDE), f"{name}-wide", description)),
        Markup(style.svg(draw(result, style.NARROW), f"{name}-narrow", description)),
    )


def _figures(result: Result) -> dict[str, tuple[Markup, Markup]]:
    """The figures that have something to show."""
    budgets = bool(answer_tables.by_budget(result))
    figures: list[tuple[str, bool, Draw, str]] = [
        ("curves", True, curve_figure.curves,
         "Learning curves of the candidates, measured and extrapolated"),
        ("budgets", budgets, diagnostic_figures.budgets,
         "Scores of the predictors at every budget"),
        ("kernels", bool(result.spectra), diagnostic_figures.kernels,
         "Kernel spectra and decay of the residual"),
        ("bound", len(result.bounds) > 0, curvature_figures.bound,
         "Terms of the Hessian bound for each cell"),
        ("crossing", len(result.crossings) > 0, curvature_figures.crossing,
         "The bound's curvature term against its remainder, where they cross, and the law's D*"),
        ("density", bool(result.densities), curvature_figures.density,
         "Spectral densities of the Hessians"),
        ("drift", len(result.drift) > 0, diagnostic_figures.drift,
         "Distance of each subset from the full set"),
    ]  # fmt: skip
    return {
        name: drawings(name, draw, result, description)
        for name, shown, draw, description in figures
        if shown
    }

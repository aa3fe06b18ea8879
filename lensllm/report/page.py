"""One self-contained page: no script, nothing fetched, light and dark, for screens and paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lensllm.report import (
    answer_tables,
    cost_tables,
    curvature_figures,
    curve_figure,
    diagnostic_figures,
    diagnostic_tables,
    predictor_tables,
    style,
    text,
)
from lensllm.report.result import Result

_FILTERS = (
    text.loss, text.score, text.change, text.significant, text.rough, text.percent, text.size,
    text.short, text.flops, text.memory, text.seconds, text.unbroken,
)  # fmt: skip


def render(result: Result) -> str:
    """The report as HTML; equal data give equal text."""
    return template("page.html.j2").render(
        result=result,
        figures=_figures(result),
        looks=style.looks(result),
        config=yaml.safe_dump(dict(result.config), sort_keys=False, allow_unicode=True),
        nan=math.nan,
        **_answer(result),
        **_comparison(result),
        **_diagnostics(result),
    )


def _answer(result: Result) -> dict[str, Any]:
    ranking = answer_tables.ranking(result)
    return {
        "ranking": ranking,
        "chosen": next(row for row in ranking if row.chosen),
        "sized": any(math.isfinite(row.parameters) for row in ranking),
        "scale": answer_tables.scale(result),
        "zero_shot": bool((result.cells["size"] == 0).any()),
        "unranked": [
            name for name in result.candidates if name not in set(result.ranking["candidate"])
        ],
        "incomplete": answer_tables.incomplete(result),
        "hindsight": answer_tables.was_it_right(result),
        "findings": answer_tables.findings(result),
        "other_checks": answer_tables.other_checks(result),
        "rounds": answer_tables.rounds(result),
        "racers": answer_tables.racers(result),
        "stop": answer_tables.stop(result),
        "saved": result.saved_examples,
    }


def _comparison(result: Result) -> dict[str, Any]:
    predictors = predictor_tables.predictors(result)
    return {
        "predictors": predictors,
        "scores": predictor_tables.SCORES,
        "best_scores": predictor_tables.best_scores(predictors),
        "leads": predictor_tables.leads,
        "with_interval": predictor_tables.WITH_INTERVAL,
        "compared": list(dict.fromkeys(result.comparison["score"])),
        "mixtures": predictor_tables.mixtures(result),
        "skipped": predictor_tables.skipped(result),
        "by_budget": predictor_tables.by_budget(result),
        "log_candidates": math.log(len(result.ranking)),
    }


def _diagnostics(result: Result) -> dict[str, Any]:
    spent = cost_tables.cost(result)
    first, others = diagnostic_tables.laws(result)
    return {
        "learning_rates": cost_tables.learning_rates(result),
        "unequal": cost_tables.unequal(result.config),
        "infinity": math.inf,
        "laws": first,
        "other_laws": others,
        "kernels": diagnostic_tables.kernels(result),
        "probe_counts": diagnostic_tables.probe_counts(result),
        "contributions": diagnostic_tables.contributions(result),
        "reads_kernel": diagnostic_tables.reads_kernel,
        "layers": diagnostic_tables.layers(result),
        "transitions": diagnostic_tables.transitions(result),
        "agreement": diagnostic_tables.agreement(result),
        "worth": diagnostic_tables.worth(result),
        "density_scale": curvature_figures.linear_scale(result) if result.densities else math.nan,
        "broadening": curvature_figures.BROADENING,
        "cost": spent,
        "total": cost_tables.total(spent),
        "forecasts": cost_tables.forecasts(result),
    }


def template(name: str) -> jinja2.Template:
    """A page's template, with the filters that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensllm.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (*_FILTERS, breakable)}
    return environment.get_template(name)


def breakable(name: str) -> Markup:
    """``name``, escaped, that may go on in a new line after an owner or folder."""
    return Markup(escape(name).replace("/", Markup("/<wbr>")))


def _figures(result: Result) -> dict[str, tuple[Markup, Markup]]:
    """The figures that have something to show, each for wide and for narrow screens."""
    figures: dict[str, tuple[bool, Callable[[Result, style.Layout], Figure], str]] = {
        "curves": (
            True,
            curve_figure.curves,
            "Learning curves of the candidates, measured and extrapolated",
        ),
        "budgets": (
            bool(predictor_tables.by_budget(result)),
            diagnostic_figures.budgets,
            "Scores of the predictors at every budget",
        ),
        "kernels": (
            bool(result.spectra),
            diagnostic_figures.kernels,
            "Kernel spectra and decay of the residual",
        ),
        "bound": (
            len(result.bounds) > 0,
            curvature_figures.bound,
            "Terms of the Hessian bound for each cell",
        ),
        "crossing": (
            len(result.crossings) > 0,
            curvature_figures.crossing,
            "The bound's curvature term against its remainder, where they cross, and the law's D*",
        ),
        "density": (
            bool(result.densities),
            curvature_figures.density,
            "Spectral densities of the Hessians",
        ),
        "drift": (
            len(result.drift) > 0,
            diagnostic_figures.drift,
            "Distance of each subset from the full set",
        ),
    }
    return {
        name: (
            inline(draw(result, style.WIDE), f"{name}-wide", description),
            inline(draw(result, style.NARROW), f"{name}-narrow", description),
        )
        for name, (shown, draw, description) in figures.items()
        if shown
    }


def inline(drawing: Figure, name: str, description: str) -> Markup:
    """``drawing`` as an SVG element of the page."""
    # matplotlib escapes every text it writes into an SVG, so the drawing is safe as it stands
    return Markup(style.svg(drawing, name, description))

"""A synthetic run with known curves, valid against the schemas, in the shapes reports meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm.core import seeds
from lensllm.report.result import Result
from lensllm.selection import bootstrap
from lensllm.spectra.spectrum import spectrum
from lensllm.store import schemas

SIZES = (0, 100, 200, 400, 800, 1600, 3200, 6400)
BUDGET, TARGET = 3200, 12800
SIX = (
    ("qwen3-mini-mix", 1_210_000),
    ("opt-mini-prose", 890_000),
    ("t5-mini-docs", 640_000),
    ("gpt2-mini-code", 890_000),
    ("neo-micro-topics", 440_000),
    ("gpt2-nano-docs", 170_000),
)


def valid(table: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    """``rows`` as a frame of ``table``; fails where they do not fit the table's schema."""
    schema = schemas.schema(table)
    return pa.Table.from_pylist(rows, schema=schema).to_pandas()


def make(
    candidates: Sequence[tuple[str, int]] = SIX,
    truth: bool = True,
    seed_count: int = 2,
    budgets: Sequence[int] = (BUDGET,),
    examined: int = 6,
) -> Result:
    """A run of ``candidates``, (name, parameters), whose losses follow known rectified laws.

    The curvature of the first ``examined`` of them is known.
    """
    noise = seeds.generator(0, "report-fixture", len(candidates))
    fits, cells, predictions, cost, machine = [], [], [], [], []
    for place, (name, parameters) in enumerate(candidates):
        share = place / max(len(candidates) - 1, 1)
        beta, offset, asymptote = 0.42 - 0.14 * share, 6 + 22 * share, 1.15 + 0.35 * share
        b = (2.6 - 0.5 * share) * offset * 0.5 + 4 * (1 - share)
        law = {
            "candidate": name, "law": "rectified", "B": b, "beta": beta, "E": asymptote,
            "offset": offset, "t": np.nan, "scale": np.nan,
            "transition_size": offset ** (1 / beta), "rmse_log": 0.004, "B_stderr": 0.08 * b,
            "beta_stderr": 0.03, "E_stderr": 0.05, "offset_stderr": 0.1 * offset, "sizes": 6,
        }  # fmt: skip
        fits += [law, {**law, "law": "vanilla", "offset": 0.0, "transition_size": 0.0}]

        def loss(size: float, b=b, offset=offset, beta=beta, asymptote=asymptote) -> float:
            return float(b / (offset + size**beta) + asymptote)

        for size in SIZES:
            for seed in range(seed_count):
                value = loss(size) * float(np.exp(0.006 * noise.standard_normal()))
                flops = 6.0 * parameters * size * 49 * 3
                cells.append({
                    "candidate": name, "family": "", "tokenizer": "", "size": size, "repeat": seed,
                    "bits_per_byte": value, "nats_per_token": 1.7 * value,
                    "train_nats_per_token": 1.4 * value, "validation_nats_per_token": 1.7 * value,
                    "learning_rate_integral": 1e-3 * size * 3 / 16 / 2, "parameters": parameters,
                    "train_flops": flops, "evaluation_flops": 1e9,
                })  # fmt: skip
                machine.append({
                    "candidate": name, "size": size, "repeat": seed,
                    "seconds": 0.4 + size / 300, "peak_memory_bytes": 400_000_000 + size * 1000,
                })  # fmt: skip
        true = loss(TARGET)
        for predictor, error in (("stack", 0.03), ("rectified", 0.02), ("sub_tuning", 0.12)):
            predicted = true * float(np.exp(error * noise.standard_normal()))
            predictions += [{
                "budget": budget, "predictor": predictor, "candidate": name, "rank": 0,
                "predicted": predicted, "low": predicted * np.exp(-1.3 * error),
                "high": predicted * np.exp(1.3 * error), "cautious": predicted * 1.01,
                "p_best": 0.0, "expected_regret": 0.02 + 0.1 * share,
                "measured": true if truth else np.nan, "measured_rank": 0,
            } for budget in budgets]  # fmt: skip
        spent = 6.0 * parameters * sum(SIZES[:-1]) * 49 * 3
        cost.append({
            "candidate": name, "spent_flops": spent, "full_flops": 6.0 * parameters * 1e6 * 49 * 3,
        })  # fmt: skip
    _rank(predictions, truth)
    names = [name for name, _ in candidates]
    bent = names[:examined]
    return Result(
        pipeline="docstrings",
        metric="bits_per_byte",
        target=TARGET,
        budget=BUDGET,
        predictor="stack",
        verdict=f"Fine-tune {names[0]}: it is expected to be the best of {len(names)}.",
        cells=valid("curve/cells", cells),
        fits=valid("law/fits", fits),
        all_predictions=valid("ranking/predictions", predictions),
        all_scores=valid("ranking/scores", _scores(budgets) if truth else []),
        comparison=valid("ranking/comparison", _comparison() if truth else []),
        weights=valid(
            "ranking/weights",
            [
                {"budget": budget, "predictor": "stack", "part": part, "weight": weight}
                for budget in budgets
                for part, weight in (("ats", 0.36), ("hrb", 0.64))
            ],
        ),
        skipped=valid(
            "ranking/skipped",
            [
                {"budget": budget, "predictor": "lensllm", "reason": "It needs kernels."}
                for budget in budgets
            ],
        ),
        findings=valid(
            "checks/findings",
            [
                {
                    "code": "LENS102",
                    "title": "The target is far away",
                    "candidate": "",
                    "message": "The target is 6 doublings away; raise the budget.",
                },
            ],
        ),
        decisions=valid("sweep/decisions", []),
        simulated_cost=pd.DataFrame(),
        notes=pd.DataFrame(),
        cost=valid("ranking/cost", cost),
        drift=valid("drift/sizes", _drift()),
        bounds=valid("curvature/bound", _bounds(bent)),
        layers=pd.concat([_layers(name) for name in bent], ignore_index=True),
        densities={name: _density(place) for place, name in enumerate(bent)},
        crossings=valid("crossing/candidates", _crossings(bent)),
        agreement=valid("crossing/agreement", _agreement(len(bent))),
        cell_costs=pd.DataFrame(machine),
        forecast=valid(
            "report/forecast", [_forecast(name, place) for place, name in enumerate(names)]
        ),
        spectra={name: spectrum(*_kernel(place)) for place, name in enumerate(names)},
        kernel_matrices={name: _matrix(*_kernel(place)) for place, name in enumerate(names)},
        overlaps={name: _overlap(name, place) for place, name in enumerate(names[:6])},
        failed=[],
        config={"data": {"source": "builtin:docstrings"}, "sweep": {"sizes": list(SIZES)}},
        versions={"python": "3.11.9", "torch": "2.13.0", "lensllm": "0.1.0"},
    )


def _rank(predictions: list[dict[str, object]], truth: bool) -> None:
    """Fill ranks and P(best) in place, per budget and predictor."""
    for asked in {(row["budget"], row["predictor"]) for row in predictions}:
        rows = [row for row in predictions if (row["budget"], row["predictor"]) == asked]
        values = np.array([row["predicted"] for row in rows])
        weights = np.exp(-(values - values.min()) / 0.02)
        by_truth = sorted(range(len(rows)), key=lambda i: rows[i]["measured"])
        for place, i in enumerate(np.argsort(values)):
            rows[i]["rank"] = place + 1
            rows[i]["p_best"] = float(weights[i] / weights.sum())
        for place, i in enumerate(by_truth):
            rows[i]["measured_rank"] = place + 1 if truth else 0


def _scores(budgets: Sequence[int]) -> list[dict[str, object]]:
    best = [
        {"predictor": "stack", "pearson": 0.97, "spearman": 0.94, "kendall": 0.87, "rel_acc": 1.0,
         "regret": 0.0, "rmse_log": 0.012, "coverage_80": 0.83, "p_best_log_score": 0.55},
        {"predictor": "rectified", "pearson": 0.91, "spearman": 0.83, "kendall": 0.73,
         "rel_acc": 0.96, "regret": 0.008, "rmse_log": 0.02, "coverage_80": 0.67,
         "p_best_log_score": 0.7},
        {"predictor": "sub_tuning", "pearson": -0.12, "spearman": 0.03, "kendall": 0.07,
         "rel_acc": 0.55, "regret": 0.1, "rmse_log": 0.12, "coverage_80": np.nan,
         "p_best_log_score": 1.7},
    ]  # fmt: skip
    less = [0.1 * (len(budgets) - 1 - place) for place in range(len(budgets))]
    return [
        {
            **row,
            "budget": budget,
            "pearson": row["pearson"] - lost,
            "rel_acc": row["rel_acc"] - lost,
        }
        for budget, lost in zip(budgets, less, strict=True)
        for row in best
    ]


def _comparison() -> list[dict[str, object]]:
    """Rectified is worse than stack by its RMSE only, sub_tuning by everything."""
    clear = {"stack": (), "rectified": ("rmse_log",), "sub_tuning": bootstrap.SCORES}
    rows = []
    for scores in _scores((BUDGET,)):
        for score in bootstrap.SCORES:
            value = scores[score]
            sign = 1 if score in ("regret", "rmse_log") else -1  # of what is worse
            ends = sorted((0.01 * sign, 0.2 * sign))
            low, high = ends if score in clear[scores["predictor"]] else (-0.1, 0.1)
            rows.append({
                "predictor": scores["predictor"], "score": score, "value": value,
                "low": value - 0.125, "high": value + 0.125, "difference": (low + high) / 2,
                "difference_low": low, "difference_high": high,
            })  # fmt: skip
    return rows


def raced(data: Result, stop: str = "") -> Result:
    """``data`` of a sweep in two rounds, 400 and 1,600, which dropped two candidates, then one."""
    names, rows = data.candidates, []
    for budget, racing, out in ((400, names, names[-2:]), (1600, names[:-2], names[-3:-2])):
        rows += [
            {"budget": budget, "candidate": name, "predicted": 2.0, "p_best": 0.5 / (place + 1),
             "expected_regret": 0.1, "dropped": "P(best) is 1.2%" if name in out else "",
             "stop": stop if budget == 1600 else ""}
            for place, name in enumerate(racing)
        ]  # fmt: skip
    last = {row["candidate"]: row["budget"] for row in rows if row["dropped"]}
    limit = data.cells["candidate"].map(last).fillna(TARGET)
    return replace(
        data,
        decisions=valid("sweep/decisions", rows),
        cells=data.cells[data.cells["size"] <= limit],
    )


def replayed(data: Result) -> Result:
    """``data`` as if its losses had been measured elsewhere, and nothing else."""
    notes = [
        {"kind": "metric", "text": data.metric},
        {"kind": "citation", "text": "Losses by Somebody et al. (2024)."},
        {"kind": "note", "text": "Two of them look edited."},
    ]
    unknown = ["learning_rate_integral", "train_flops", "evaluation_flops"]
    none = data.cost.assign(spent_flops=np.nan, full_flops=np.nan)
    cells = data.cells.assign(**dict.fromkeys(unknown, np.nan), parameters=pd.NA)
    return replace(
        data, cells=cells.astype({"parameters": "Int64"}), cost=none,
        notes=valid("losses/notes", notes), fits=pd.DataFrame(), findings=pd.DataFrame(),
        drift=pd.DataFrame(), bounds=pd.DataFrame(), layers=pd.DataFrame(), densities={},
        crossings=pd.DataFrame(), agreement=pd.DataFrame(), spectra={}, kernel_matrices={}, overlaps={},
        cell_costs=data.cell_costs.iloc[:0],
        forecast=data.forecast.iloc[:0],
    )  # fmt: skip


def _drift() -> list[dict[str, object]]:
    return [
        {"size": size, "mean_target_bytes": 61.0 + 30 / size**0.5, "median_target_bytes": 55.0,
         "target_length_ks": 0.6 / size**0.5 if size < TARGET else 0.0,
         "vocabulary_js_bits": 0.9 - 0.9 * share, "vocabulary_coverage": 0.4 + 0.6 * share}
        for size in (*SIZES[1:], TARGET)
        for share in [np.log(size / 50) / np.log(TARGET / 50)]
    ]  # fmt: skip


def _bounds(names: Sequence[str]) -> list[dict[str, object]]:
    """Curvature terms (2 + place/4) n^(−.2): at 800 and 3,200 no bound is vacuous."""
    return [
        {"candidate": name, "size": size, "repeat": 0, "loss_bound": 9.0, "epsilon": 0.1,
         "uniform_nats_per_token": 7.6, "train_term": train, "curvature_term": term,
         "bound": train + term, "train_nats_per_token": train / 1.1,
         "test_nats_per_token": train / 1.1 + 0.3, "gap": 0.3, "examples": 8, "flops": 3e12,
         "seconds": 14.0}
        for place, name in enumerate(names)
        for size in (800, 3200)
        for train, term in [(2.9 + 0.1 * place, (2 + place / 4) * size**-0.2)]
    ]  # fmt: skip


def _layers(name: str) -> pd.DataFrame:
    """Of the cell with 3,200 examples."""
    rows = [
        {"layer": f"transformer.h.{block}.{part}", "parameters": 16_000 * (block + 1),
         "distance": 0.8 + 0.1 * block, "vhv_positive": 0.02 * (block + 1),
         "vhv_negative": 0.001, "vhv_error": 1e-5, "vhv_positive_max": 0.2 * (block + 1),
         "vhv_max_error": 0.011, "trace": 40.0 * (block + 1), "trace_stderr": 3.0,
         "largest_eigenvalue": 2.1, "eigenvalue_error": 0.13, "lanczos_steps": 5}
        for block in range(12)
        for part in ("attn.c_attn", "mlp.c_fc")
    ]  # fmt: skip
    return valid("curvature/layers", rows).assign(candidate=name, size=3200, repeat=0)


def _density(place: int) -> pd.DataFrame:
    """A bulk near 0 and a few large eigenvalues."""
    nodes = {-9.0: 2e-5, -1.5: 1e-3, 0.002: 0.98, 1.1: 0.018, 12.0: 9e-4, 40.0 + place: 8e-5}
    return valid(
        "curvature/density", [{"eigenvalue": e, "weight": w} for e, w in nodes.items()]
    ).assign(weight=lambda rows: rows["weight"] / rows["weight"].sum())


def _crossings(names: Sequence[str]) -> list[dict[str, object]]:
    """The literal n* is below one example; the fitted one is that too, or 900, or never comes, or
    has no interval, or is not known."""
    fitted = [(0.0, 0.0, 40.0), (900.0, 300.0, 5000.0), (np.inf, 4000.0, np.inf),
              (2000.0, np.nan, np.nan), (np.nan, np.nan, np.nan), (0.0, 0.0, 0.0)]  # fmt: skip
    return [
        {"candidate": name, "remainder": remainder, "C3": 2 + place / 4, "beta3": 0.2,
         "log_C3_stderr": 0.3, "beta3_stderr": 0.04, "cells": 2, "crossing_size": size,
         "low": low, "high": high, "transition_size": start,
         "agrees": None if np.isnan(size) else (size <= BUDGET) == (start <= BUDGET)}
        for place, name in enumerate(names)
        for start in [500.0 * 4 ** (place % 6)]
        for remainder, (size, low, high) in (
            ("literal", (0.3, 0.1, 2.0)), ("fitted", fitted[place % 6])
        )
    ]  # fmt: skip


def _agreement(count: int) -> list[dict[str, object]]:
    return [
        {"remainder": "literal", "candidates": count, "same_phase": 0.5, "doublings": 2.25,
         "within_interval": 0.0},
        {"remainder": "fitted", "candidates": count, "same_phase": 1.0, "doublings": 0.5,
         "within_interval": np.nan},
    ]  # fmt: skip


def _forecast(name: str, place: int) -> dict[str, object]:
    return {
        "candidate": name,
        "cells": 9,
        "predicted_seconds": 40.0 + place,
        "seconds": 50.0 + place,
        "predicted_flops": 2e12,
        "flops": 2.1e12,
        "predicted_peak_memory_bytes": 7e8 + place,
        "peak_memory_bytes": 8e8 + place,
    }


def _overlap(name: str, place: int) -> pd.Series:
    """The last two candidates of six are not known well."""
    row = {
        "candidate": name, "probes": 64, "window_tokens": 48, "alignment": 0.73 - 0.1 * place,
        "alignment_standard_error": 0.084, "mean_gradient_cosine": 0.2,
        "mean_gradient_cosine_standard_error": 0.1, "flops": 1e10, "seconds": 2.0,
    }  # fmt: skip
    if place > 3:
        row |= {"alignment": np.nan, "alignment_standard_error": np.nan}
    return valid("overlap/summary", [row]).iloc[0]


def _kernel(place: int) -> tuple[np.ndarray, np.ndarray]:
    """K and ρ of 40 probes whose gradients share a few directions."""
    noise = seeds.generator(0, "report-kernel", place)
    shared = noise.normal(1, 1, (40, 4)) * [6.0, 3.0, 2.0, 1.0]
    gradients = np.hstack([shared / (1 + 0.2 * place), noise.normal(0, 0.2, (40, 60))])
    return gradients @ gradients.T, noise.uniform(0.9, 1.1, 40)


def _matrix(kernel: np.ndarray, norms: np.ndarray) -> pd.DataFrame:
    rows = enumerate(zip(kernel, norms, strict=True))
    return valid(
        "kernel/matrix",
        [{"row": i, "residual_norm": norm, "kernel": line.tolist()} for i, (line, norm) in rows],
    )


@pytest.fixture
def matrix() -> Callable[..., pd.DataFrame]:
    """``matrix(kernel, norms)``: the table kernel/matrix."""
    return _matrix


@pytest.fixture(name="make")
def _make() -> Callable[..., Result]:
    """The builder of synthetic runs, for tests that vary it."""
    return make


@pytest.fixture(name="raced")
def _raced() -> Callable[..., Result]:
    """What turns a run into one with a policy."""
    return raced


@pytest.fixture(name="replayed")
def _replayed() -> Callable[..., Result]:
    """What turns a run into a replay of losses measured elsewhere."""
    return replayed


@pytest.fixture(scope="session")
def data() -> Result:
    """Six candidates, all measured at the target."""
    return make()

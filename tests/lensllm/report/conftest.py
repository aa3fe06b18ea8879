"""A synthetic run with known curves, valid against the schemas, in the shapes reports meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm import schemas, seeds
from lensllm.report.data import ReportData
from lensllm.spectrum import Spectrum

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
    candidates: Sequence[tuple[str, int]] = SIX, truth: bool = True, seed_count: int = 2
) -> ReportData:
    """A run of ``candidates``, (name, parameters), whose losses follow known rectified laws."""
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
                    "candidate": name, "size": size, "seed": seed,
                    "bits_per_byte": value, "nats_per_token": 1.7 * value,
                    "train_nats_per_token": 1.4 * value, "validation_nats_per_token": 1.7 * value,
                    "learning_rate_integral": 1e-3 * size * 3 / 16 / 2, "parameters": parameters,
                    "train_flops": flops, "evaluation_flops": 1e9,
                })  # fmt: skip
                machine.append({
                    "candidate": name, "size": size, "seed": seed,
                    "seconds": 0.4 + size / 300, "peak_memory_bytes": 400_000_000 + size * 1000,
                })  # fmt: skip
        true = loss(TARGET)
        for predictor, error in (("stack", 0.03), ("rectified", 0.02), ("sub_tuning", 0.12)):
            predicted = true * float(np.exp(error * noise.standard_normal()))
            predictions.append({
                "predictor": predictor, "candidate": name, "rank": 0, "predicted": predicted,
                "low": predicted * np.exp(-1.3 * error), "high": predicted * np.exp(1.3 * error),
                "p_best": 0.0, "measured": true if truth else np.nan, "measured_rank": 0,
            })  # fmt: skip
        spent = 6.0 * parameters * sum(SIZES[:-1]) * 49 * 3
        cost.append({
            "candidate": name, "spent_flops": spent, "full_flops": 6.0 * parameters * 1e6 * 49 * 3,
        })  # fmt: skip
    _rank(predictions, truth)
    names = [name for name, _ in candidates]
    return ReportData(
        pipeline="docstrings",
        metric="bits_per_byte",
        target=TARGET,
        budget=BUDGET,
        default_predictor="stack",
        verdict=f"Fine-tune {names[0]}: it is expected to be the best of {len(names)}.",
        cells=valid("curve/cells", cells),
        fits=valid("law/fits", fits),
        predictions=valid("ranking/predictions", predictions),
        scores=valid("ranking/scores", _scores() if truth else []),
        cost=valid("ranking/cost", cost),
        drift=valid("drift/sizes", _drift()),
        bounds=valid("curvature/bound", _bounds(names[:6])),
        layers={(name, 3200, 0): valid("curvature/layers", _layers()) for name in names[:6]},
        machine=pd.DataFrame(machine),
        kernels={name: _spectrum(place) for place, name in enumerate(names)},
        failed=[],
        config={"data": {"source": "builtin:docstrings"}, "sweep": {"sizes": list(SIZES)}},
        versions={"python": "3.11.9", "torch": "2.13.0", "lensllm": "0.1.0"},
    )


def _rank(predictions: list[dict[str, object]], truth: bool) -> None:
    """Fill ranks and P(best) in place, per predictor."""
    for predictor in {row["predictor"] for row in predictions}:
        rows = [row for row in predictions if row["predictor"] == predictor]
        values = np.array([row["predicted"] for row in rows])
        weights = np.exp(-(values - values.min()) / 0.02)
        by_truth = sorted(range(len(rows)), key=lambda i: rows[i]["measured"])
        for place, i in enumerate(np.argsort(values)):
            rows[i]["rank"] = place + 1
            rows[i]["p_best"] = float(weights[i] / weights.sum())
        for place, i in enumerate(by_truth):
            rows[i]["measured_rank"] = place + 1 if truth else 0


def _scores() -> list[dict[str, object]]:
    return [
        {"predictor": "stack", "pearson": 0.97, "spearman": 0.94, "kendall": 0.87, "rel_acc": 1.0,
         "regret": 0.0, "rmse_log": 0.012, "coverage_80": 0.83, "p_best_log_score": 0.55},
        {"predictor": "rectified", "pearson": 0.91, "spearman": 0.83, "kendall": 0.73,
         "rel_acc": 0.96, "regret": 0.008, "rmse_log": 0.02, "coverage_80": 0.67,
         "p_best_log_score": 0.7},
        {"predictor": "sub_tuning", "pearson": -0.12, "spearman": 0.03, "kendall": 0.07,
         "rel_acc": 0.55, "regret": 0.1, "rmse_log": 0.12, "coverage_80": np.nan,
         "p_best_log_score": 1.7},
    ]  # fmt: skip


def _drift() -> list[dict[str, object]]:
    return [
        {"size": size, "mean_target_bytes": 61.0 + 30 / size**0.5, "median_target_bytes": 55.0,
         "target_length_ks": 0.6 / size**0.5 if size < TARGET else 0.0,
         "vocabulary_js_bits": 0.9 - 0.9 * share, "vocabulary_coverage": 0.4 + 0.6 * share}
        for size in (*SIZES[1:], TARGET)
        for share in [np.log(size / 50) / np.log(TARGET / 50)]
    ]  # fmt: skip


def _bounds(names: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"candidate": name, "size": size, "seed": 0, "loss_bound": 11.0, "epsilon": 0.1,
         "train_term": 2.9 + 0.1 * place, "curvature_term": 90 / size**0.5 + place / 4,
         "bound": 2.9 + 0.1 * place + 90 / size**0.5 + place / 4,
         "train_nats_per_token": 2.6 + 0.1 * place, "test_nats_per_token": 2.9 + 0.12 * place,
         "gap": 0.3, "examples": 32, "flops": 3e12, "seconds": 14.0}
        for place, name in enumerate(names)
        for size in (800, 3200)
    ]  # fmt: skip


def _layers() -> list[dict[str, object]]:
    return [
        {"layer": f"transformer.h.{block}.{part}", "parameters": 16_000 * (block + 1),
         "distance": 0.8 + 0.1 * block, "vhv_positive": 0.02 * (block + 1),
         "vhv_negative": 0.001, "vhv_error": 1e-5, "vhv_positive_max": 0.2 * (block + 1),
         "trace": 40.0 * (block + 1), "trace_stderr": 3.0, "largest_eigenvalue": 2.1}
        for block in range(12)
        for part in ("attn.c_attn", "mlp.c_fc")
    ]  # fmt: skip


def _spectrum(place: int) -> Spectrum:
    index = np.arange(1, 97, dtype=float)
    return Spectrum(40.0 * index ** -(1.2 + 0.05 * place), 60 * index**-1.5)


@pytest.fixture(name="make")
def _make() -> Callable[..., ReportData]:
    """The builder of synthetic runs, for tests that vary it."""
    return make


@pytest.fixture(scope="session")
def data() -> ReportData:
    """Six candidates, all measured at the target."""
    return make()

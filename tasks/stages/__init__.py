"""The stages of a pipeline, in the order in which they are made: one line each."""

from __future__ import annotations

from importlib import import_module

from tasks.base.stage import Stage

_NAMES = (
    "dataset",
    "sample",
    "pretext",
    "tokenizer",
    "pretrain",
    "download",
    "dequantise",
    "tokens",
    "drift",
    "probe",
    "trunk",
    "finetune",
    "rate",
    "kernel",
    "heavy_tails",
    "overlap",
    "delta",
    "curvature",
    "decision",
    "losses",
    "simulation",
    "curve",
    "inspection",
    "prediction",
    "law",
    "ranking",
    "crossing",
    "checks",
    "report",
    "ablation",
)
STAGES: dict[str, Stage] = {name: import_module(f"{__name__}.{name}").STAGE for name in _NAMES}

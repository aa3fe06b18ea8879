"""curvature: the Hessian bound of one cell, a diagnostic.

Key: the cell with its weights, model, tokens, sample and the section's settings. Tables:
``layers``, ``bound``.
"""

from pathlib import Path
from typing import Any

from lensllm import measure
from lensllm.config import Pipeline
from lensllm.store import Recipe, Ref, Store, write_table
from tasks import sample
from tasks.models import Model
from tasks.stage import Step, Work

VERSION = 1


def step(
    config: Pipeline, model: Model, size: int, repeat: int, cell: Ref, tokens: Ref, roles: Ref
) -> Step:
    params = {
        **config.curvature.model_dump(exclude={"sizes"}),
        "size": size,
        "seed": config.seed,
        **model.params,
    }
    upstream = {"cell": cell, "tokens": tokens, "sample": roles, **model.upstream}
    return Step(
        f"curvature {model.name} · D={size} · seed {repeat}",
        Recipe("curvature", VERSION, params, upstream),
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
    )

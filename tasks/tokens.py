"""tokens: the data set under one tokenizer; candidates that share it share the artefact.

Key: data set, tokenizer and the longest example. Table: ``examples``.
"""

from pathlib import Path

from lensllm.config import Pipeline
from lensllm.store import Recipe, Ref, write_table
from tasks.models import Model
from tasks.stage import Step, Work

VERSION = 1


def step(config: Pipeline, model: Model, dataset: Ref) -> Step:
    params: dict[str, object] = {"max_tokens": config.data.max_tokens}
    upstream = {"dataset": dataset}
    if isinstance(model.tokenizer, Ref):
        upstream["tokenizer"] = model.tokenizer
    else:
        params["tokenizer"] = model.tokenizer
    recipe = Recipe("tokens", VERSION, params, upstream)
    return Step(f"tokenise for {model.name}", recipe, {"tokenizer": str(model.tokenizer_folder)})


def build(work: Work) -> None:
    from lensllm.data import tokens
    from lensllm.models.load import load_tokenizer

    examples = work.store.table(work.upstream["dataset"], "examples")
    tokenizer = load_tokenizer(Path(work.hints["tokenizer"]))
    table = tokens.tokenise(examples, tokenizer, work.params["max_tokens"])
    write_table(work.folder, "tokens/examples", table)

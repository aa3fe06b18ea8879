"""tokens: the data set under one tokenizer; candidates that share it share the artefact.

Key: data set, tokenizer with its chat template, and the longest example. Tables: ``examples``,
``summary``. All examples kept are tokenised, whatever the sizes, so that a longer sweep keeps every
finished cell; ``data.keep`` bounds them.
"""

from pathlib import Path

from lensllm.config.sections import Pipeline
from lensllm.data.readers import checksum
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.models import Model
from tasks.base.stage import Step, Work
from tasks.stages import dataset as dataset_stage

VERSION = 2


def step(config: Pipeline, model: Model, dataset: Ref) -> Step:
    params: dict[str, object] = {"max_tokens": config.data.max_tokens}
    upstream = {"dataset": dataset}
    if isinstance(model.tokenizer, Ref):
        upstream["tokenizer"] = model.tokenizer
    else:
        params["tokenizer"] = model.tokenizer
        template = model.tokenizer_folder / "chat_template.jinja"
        if template.is_file():
            params["chat_template"] = checksum(template)
    recipe = Recipe("tokens", VERSION, params, upstream)
    return Step(f"tokenise for {model.name}", recipe, {"tokenizer": str(model.tokenizer_folder)})


def build(work: Work) -> None:
    from lensllm.data import tokens
    from lensllm.models.load import load_tokenizer

    examples = work.store.table(work.upstream["dataset"], "examples")
    form = dataset_stage.form(work.store, work.upstream["dataset"])
    tokenizer = load_tokenizer(Path(work.hints["tokenizer"]))
    table = tokens.tokenise(examples, tokenizer, work.params["max_tokens"], form=form)
    write_table(work.folder, "tokens/examples", table)
    write_table(work.folder, "tokens/summary", [tokens.summary(tokenizer, form)])


def remark(store: Store, ref: Ref) -> str:
    """How a chat is written for this tokenizer."""
    rendering = str(store.table(ref, "summary")["rendering"].iloc[0])
    return f"written in {rendering} format" if rendering == "plain chat" else ""

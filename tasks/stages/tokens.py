"""tokens: the data set under one tokenizer; candidates that share it share the artefact.

Key: data set, tokenizer with its chat template, and the longest example. Tables: ``examples``,
``summary``. All examples kept are tokenised, whatever the sizes, so that a longer sweep keeps every
finished cell; ``data.keep`` bounds them.
"""

from pathlib import Path

from lensllm.data.readers import checksum
from lensllm.store.artifacts import Ref, Store
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import dataset as dataset_stage


def step(plan: Plan, model: Model) -> Step:
    """The step of the data under the tokenizer of ``model``."""
    params: dict[str, object] = {"max_tokens": plan.config.data.max_tokens}
    upstream = {"dataset": plan["dataset"][""].ref}
    if isinstance(model.tokenizer, Ref):
        upstream["tokenizer"] = model.tokenizer
    else:
        params["tokenizer"] = model.tokenizer
        template = model.tokenizer_folder / "chat_template.jinja"
        if template.is_file():
            params["chat_template"] = checksum(template)
    hints = {"tokenizer": str(model.tokenizer_folder)}
    return STAGE.step(f"tokenise for {model.name}", params, upstream, hints)


def build(context: BuildContext) -> None:
    from lensllm.data import tokens
    from lensllm.models.load import load_tokenizer

    examples = context.table("dataset", "examples")
    form = dataset_stage.form(context.store, context.upstream["dataset"])
    tokenizer = load_tokenizer(Path(context.hints["tokenizer"]))
    table = tokens.tokenise(examples, tokenizer, context.params["max_tokens"], form=form)
    context.write("tokens/examples", table)
    context.write("tokens/summary", [tokens.summary(tokenizer, form)])


def note(store: Store, ref: Ref) -> str:
    """The format of the chats, if no template is used."""
    rendering = str(store.table(ref, "summary")["rendering"].iloc[0])
    return f"written in {rendering} format" if rendering == "plain chat" else ""


STAGE = Stage(
    name="tokens",
    version=2,
    tables=("tokens/examples", "tokens/summary"),
    plan=per_candidate(step),
    build=build,
    note=note,
)

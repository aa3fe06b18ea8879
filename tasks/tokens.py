"""tokens: the data set under one tokenizer; candidates that share it share the artefact.

Key: data set, tokenizer and the longest example. Table: ``examples``.
"""

from pathlib import Path

from lensllm.store import Recipe, Ref, write_table
from tasks.stage import Step, Work

VERSION = 1


def step(
    label: str, max_tokens: int, dataset: Ref, tokenizer: Ref | str, folder: Path
) -> Step:
    """``tokenizer`` is an artefact, or the checksum of the files in ``folder``."""
    params: dict[str, object] = {"max_tokens": max_tokens}
    upstream = {"dataset": dataset}
    if isinstance(tokenizer, Ref):
        upstream["tokenizer"] = tokenizer
    else:
        params["tokenizer"] = tokenizer
    recipe = Recipe("tokens", VERSION, params, upstream)
    return Step(f"tokenise · {label}", recipe, {"tokenizer": str(folder)})


def build(work: Work) -> None:
    from lensllm.data import tokens
    from lensllm.models.load import load_tokenizer

    examples = work.store.table(work.upstream["dataset"], "examples")
    tokenizer = load_tokenizer(Path(work.hints["tokenizer"]))
    table = tokens.tokenise(examples, tokenizer, work.params["max_tokens"])
    write_table(work.folder, "tokens/examples", table)

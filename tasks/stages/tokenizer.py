"""tokenizer: the embedded candidates' byte-level BPE, trained on their pretraining text.

Key: the text. Files: a tokenizer saved by transformers.
"""

from lensllm.store.artifacts import Ref
from tasks.base.plan import of_models
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step(pretext: Ref) -> Step:
    """The step of the tokenizer."""
    return STAGE.step("tokenizer", upstream={"pretext": pretext})


def build(context: BuildContext) -> None:
    from lensllm.models.zoo import tokenizer

    texts = context.table("pretext", "texts")["text"]
    tokenizer.train(texts).save_pretrained(context.folder / "tokenizer")


STAGE = Stage(name="tokenizer", version=1, plan=of_models("tokenizer"), build=build)

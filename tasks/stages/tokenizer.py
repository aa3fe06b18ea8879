"""tokenizer: the embedded candidates' byte-level BPE, trained on their pretraining text.

Key: the text. Files: a tokenizer saved by transformers.
"""

from lensllm.store.artifacts import Recipe, Ref
from tasks.base.stage import Step, Work

VERSION = 1


def step(pretext: Ref) -> Step:
    return Step("tokenizer", Recipe("tokenizer", VERSION, upstream={"pretext": pretext}))


def build(work: Work) -> None:
    from lensllm.models.zoo import tokenizer

    texts = work.store.table(work.upstream["pretext"], "texts")["text"]
    tokenizer.train(texts).save_pretrained(work.folder / "tokenizer")

"""tokenizer: the embedded candidates' byte-level BPE, trained on their pretraining text.

Key: the text. Files: a tokenizer saved by transformers.
"""

from lensllm.store import Recipe, Ref
from tasks.stage import Step, Work

VERSION = 1


def step(pretext: Ref) -> Step:
    return Step("tokenizer", Recipe("tokenizer", VERSION, upstream={"pretext": pretext}))


def build(work: Work) -> None:
    from lensllm.models import tokenizer

    texts = work.store.table(work.upstream["pretext"], "texts")["text"]
    tokenizer.train(texts).save_pretrained(work.folder / "tokenizer")

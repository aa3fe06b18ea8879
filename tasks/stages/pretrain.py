"""pretrain: one embedded candidate, trained with fixed steps and seed.

Key: its specification, text and tokenizer. Files: ``model/``. Table: ``curve``.
"""

from lensllm.models.zoo.specs import ZooSpec
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.stage import Step, Work

VERSION = 1


def step(specification: ZooSpec, pretext: Ref, tokenizer: Ref) -> Step:
    recipe = Recipe(
        "pretrain",
        VERSION,
        {"specification": specification.describe()},
        {"pretext": pretext, "tokenizer": tokenizer},
    )
    return Step(
        f"pretrain {specification.name}",
        recipe,
        weight=specification.work * specification.tokens,
    )


def build(work: Work) -> None:
    from lensllm.models.load import load_tokenizer
    from lensllm.models.zoo import pretrain

    texts = work.store.table(work.upstream["pretext"], "texts")
    tokenizer = load_tokenizer(work.store.path(work.upstream["tokenizer"]) / "tokenizer")
    curve = pretrain.pretrain(
        ZooSpec(**work.params["specification"]), tokenizer, texts, work.folder / "model"
    )
    write_table(work.folder, "pretrain/curve", curve)

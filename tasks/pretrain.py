"""pretrain: one embedded candidate, trained with fixed steps and seed.

Key: its specification, text and tokenizer. Files: ``model/``. Table: ``curve``.
"""

from lensllm.store import Recipe, Ref, write_table
from tasks.stage import Step, Work

VERSION = 1


def step(name: str, specification: dict[str, object], pretext: Ref, tokenizer: Ref) -> Step:
    recipe = Recipe(
        "pretrain",
        VERSION,
        {"specification": specification},
        {"pretext": pretext, "tokenizer": tokenizer},
    )
    return Step(f"pretrain {name}", recipe)


def build(work: Work) -> None:
    from lensllm.models import zoo
    from lensllm.models.load import load_tokenizer
    from lensllm.models.specs import ZooSpec

    texts = work.store.table(work.upstream["pretext"], "texts")
    tokenizer = load_tokenizer(work.store.path(work.upstream["tokenizer"]) / "tokenizer")
    curve = zoo.pretrain(
        ZooSpec(**work.params["specification"]), tokenizer, texts, work.folder / "model"
    )
    write_table(work.folder, "pretrain/curve", curve)

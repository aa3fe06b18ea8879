"""pretrain: one embedded candidate, trained with fixed steps and seed.

Key: its specification, text and tokenizer. Files: ``model/``. Table: ``curve``.
"""

from lensllm.models.zoo.specs import ZooSpec
from lensllm.store.artifacts import Ref
from tasks.base.plan import of_models
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step(specification: ZooSpec, pretext: Ref, tokenizer: Ref) -> Step:
    """The step of one embedded candidate."""
    return STAGE.step(
        f"pretrain {specification.name}",
        {"specification": specification.describe()},
        {"pretext": pretext, "tokenizer": tokenizer},
        weight=specification.work * specification.tokens,
    )


def build(context: BuildContext) -> None:
    from lensllm.models.load import load_tokenizer
    from lensllm.models.zoo import pretrain

    texts = context.table("pretext", "texts")
    tokenizer = load_tokenizer(context.store.path(context.upstream["tokenizer"]) / "tokenizer")
    curve = pretrain.pretrain(
        ZooSpec(**context.params["specification"]), tokenizer, texts, context.folder / "model"
    )
    context.write("pretrain/curve", curve)


STAGE = Stage(
    name="pretrain",
    version=1,
    tables=("pretrain/curve",),
    plan=of_models("pretrain"),
    build=build,
)

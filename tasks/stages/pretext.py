"""pretext: the text the embedded candidates are pretrained on, first paragraphs left out.

Key: the packages' versions. Table: ``texts``.
"""

from lensllm.data.builtin import docstrings, python_files
from tasks.base.plan import of_models
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step() -> Step:
    """The step of the text, whatever the pipeline."""
    packages = python_files.fingerprint((*docstrings.TEXT_PACKAGES, *docstrings.METADATA_OF))
    return STAGE.step("pretraining text", {"packages": packages})


def build(context: BuildContext) -> None:
    context.write("pretext/texts", docstrings.texts())


STAGE = Stage(
    name="pretext",
    version=1,
    tables=("pretext/texts",),
    plan=of_models("pretext"),
    build=build,
)

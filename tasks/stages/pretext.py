"""pretext: the text the embedded candidates are pretrained on, first paragraphs left out.

Key: the packages' versions. Table: ``texts``.
"""

from lensllm.data.builtin import docstrings, python_files
from lensllm.store.artifacts import Recipe, write_table
from tasks.base.stage import Step, Work

VERSION = 1


def step() -> Step:
    packages = python_files.fingerprint((*docstrings.TEXT_PACKAGES, *docstrings.METADATA_OF))
    return Step("pretraining text", Recipe("pretext", VERSION, {"packages": packages}))


def build(work: Work) -> None:
    write_table(work.folder, "pretext/texts", docstrings.texts())

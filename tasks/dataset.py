"""dataset: the examples, from installed packages' docstrings or a file.

Key: package versions or the file's checksum. Table: ``examples``.
"""

from lensllm.config import Data
from lensllm.data import sources
from lensllm.store import Recipe, write_table
from tasks.stage import Step, Work

VERSION = 1


def step(data: Data) -> Step:
    recipe = Recipe("dataset", VERSION, sources.fingerprint(data))
    return Step("dataset", recipe, {"data": data.model_dump(mode="json")})


def build(work: Work) -> None:
    data = Data.model_validate(work.hints["data"])
    write_table(work.folder, "dataset/examples", sources.load(data))

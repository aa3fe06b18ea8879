"""dequantise: a GGUF file as a checkpoint of plain float32 weights, once for all cells.

Key: the file's checksum. Files: ``model/``.
"""

from pathlib import Path

from lensllm.models import gguf
from tasks.base.plan import of_models
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step(name: str, path: Path, checksum: str) -> Step:
    """The step of the candidate ``name`` in the file ``path``."""
    hints = {"candidate": name, "file": str(path)}
    weight = float(path.stat().st_size)
    return STAGE.step(f"dequantise {name}", {"file": checksum}, hints=hints, weight=weight)


def build(context: BuildContext) -> None:
    gguf.convert(Path(context.hints["file"]), context.folder / "model")


STAGE = Stage(name="dequantise", version=1, plan=of_models("dequantise"), build=build)

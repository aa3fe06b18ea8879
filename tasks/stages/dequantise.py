"""dequantise: a GGUF file as a checkpoint of plain float32 weights, once for all cells.

Key: the file's checksum. Files: ``model/``.
"""

from pathlib import Path

from lensllm.models import gguf
from lensllm.store.artifacts import Recipe
from tasks.base.stage import Step, Work

VERSION = 1


def step(name: str, path: Path, checksum: str) -> Step:
    recipe = Recipe("dequantise", VERSION, {"file": checksum})
    hints = {"candidate": name, "file": str(path)}
    return Step(f"dequantise {name}", recipe, hints, weight=float(path.stat().st_size))


def build(work: Work) -> None:
    gguf.convert(Path(work.hints["file"]), work.folder / "model")

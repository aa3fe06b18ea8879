"""A stage whose output changes must raise its version, or old artefacts would pass for new ones.

``python -m tests.tasks.test_versions`` writes the golden file anew, after raising the version.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensllm.store.artifacts import Store
from lensllm.store.schemas import schema
from tasks.base.step import Step
from tasks.stages import STAGES
from tests.tasks import project

GOLDEN = Path(__file__).with_name("golden.json")
MACHINE = {"seconds", "peak_memory_bytes", "versions", "precision", "attention", "device",
           "step_seconds", "load_seconds", "train_flops_per_second",
           "evaluation_flops_per_second", "predicted_seconds",
           "predicted_peak_memory_bytes"}  # fmt: skip
# Another processor or torch release moves the last digits of a trained model, not these.
TOLERANCE = 5e-3


def summary(store: Store, steps: list[Step]) -> dict[str, Any]:
    """By stage: its version, and of each table's column the sum, or the texts' lengths."""
    stages: dict[str, Any] = {}
    for step in steps:
        content = stages.setdefault(
            step.stage, {"version": STAGES[step.stage].version, "tables": {}}
        )
        for path in sorted(store.path(step.ref).glob("*.parquet")):
            table = pd.read_parquet(path)
            sums = content["tables"].setdefault(path.stem, {"rows": 0})
            sums["rows"] += len(table)
            for column in table.columns.difference(list(MACHINE)):
                sums[column] = sums.get(column, 0.0) + _sum(table[column])
    return stages


def _sum(column: pd.Series) -> float:
    if pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        return float(column.replace([float("inf")], 0.0).sum())
    return float(sum(map(len, column)))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _made(tmp_path_factory.mktemp("golden"))


def _made(folder: Path) -> dict[str, Any]:
    store = Store(folder / "artifacts")
    store.prepare()
    _, steps = project.run(store, project.write_inputs(folder))
    return summary(store, steps)


def test_every_stage_is_covered(found: dict[str, Any]):
    stages = STAGES.keys()
    # The text of the first is that of the installed packages; the others have no numbers.
    assert stages - {"pretext", "download", "dequantise"} == found.keys()


def test_every_stage_names_its_tables(found: dict[str, Any]):
    assert all(schema(table) for stage in STAGES.values() for table in stage.tables)
    for name, content in found.items():
        named = {table.partition("/")[2] for table in STAGES[name].tables}
        assert content["tables"].keys() <= named, name


@pytest.mark.parametrize("stage", sorted(json.loads(GOLDEN.read_text())))
def test_output_changes_only_with_the_version(found: dict[str, Any], stage: str):
    golden, now = json.loads(GOLDEN.read_text())[stage], found[stage]
    assert golden["version"] == now["version"], "write the golden file anew"
    assert golden["tables"].keys() == now["tables"].keys()
    for name, sums in golden["tables"].items():
        assert sums == pytest.approx(now["tables"][name], rel=TOLERANCE, abs=1e-6), (
            f"{stage}/{name} changed: raise the version in tasks/stages/{stage}.py"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(_made(Path(folder)), indent=1, sort_keys=True) + "\n")

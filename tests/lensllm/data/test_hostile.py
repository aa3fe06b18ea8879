"""Data files that somebody else wrote."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensllm.config import Data
from lensllm.data import sources
from lensllm.errors import DataError
from lensllm.store import Recipe, Store


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def hostile_parquet(path: Path, canary: Path) -> None:
    """A column whose type, by the file, is to be unpickled (as Arrow before 14.0.1 did)."""
    trap = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Evil(canary)),
    }
    fields = [pa.field("prompt", pa.string(), metadata=trap), pa.field("completion", pa.string())]
    rows = [["a", "b", "c"], ["x", "y", "z"]]
    pq.write_table(pa.table(rows, schema=pa.schema(fields)), path)


def test_a_parquet_file_executes_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    hostile_parquet(tmp_path / "rows.parquet", canary)
    loaded = sources.load(Data(source=str(tmp_path / "rows.parquet")))
    assert loaded.examples["prompt"].tolist() == ["a", "b", "c"]
    assert not canary.exists()


def test_a_table_of_the_store_executes_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    store = Store(tmp_path / "artifacts")
    recipe = Recipe("hostile", 1)
    store.make(recipe, lambda folder: hostile_parquet(folder / "rows.parquet", canary))
    assert store.table(recipe.ref, "rows")["prompt"].tolist() == ["a", "b", "c"]
    assert not canary.exists()


def test_a_copied_hub_data_set_runs_no_script(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    folder = tmp_path / "org"
    folder.mkdir()
    script = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    for name in ("org.py", "setup.py", "__init__.py"):
        (folder / name).write_text(script)
    rows = [{"prompt": str(n), "completion": "x"} for n in range(3)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"scripts are no longer supported, but found org\.py"):
        sources.load(Data(source=f"hub:{folder}"))
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>.jsonl", "a\nb\x1b[31m.jsonl", "%2e%2e.jsonl"]
)
def test_a_files_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace("/", "∕")
    path.write_text("\n".join(json.dumps({"prompt": str(n), "completion": "x"}) for n in range(3)))
    loaded = sources.load(Data(source=str(path)))
    assert loaded.examples["file"].unique().tolist() == [path.name]

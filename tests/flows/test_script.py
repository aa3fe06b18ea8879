"""``lensllm.run``: settings that are wrong, and the result of a pipeline that was run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import lensllm
from flows.script import run
from lensllm.core.errors import ConfigError
from tests.tasks.project import changed, write_inputs


def test_a_dictionary_is_read_as_a_file_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pipeline 'mine': unknown key 'swep'"):
        run({"candidates": ["models/none"], "swep": {}}, name="mine", artifacts=tmp_path)
    with pytest.raises(ConfigError, match=r"--set sweep"):
        run({"candidates": ["models/none"]}, overrides=["sweep"], artifacts=tmp_path)


def test_prefect_needs_the_name_of_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prefect=True: give the name of a pipeline"):
        run({"candidates": ["models/none"]}, prefect=True, artifacts=tmp_path)


def test_the_result_is_that_which_the_folder_has(tmp_path: Path) -> None:
    config = changed(
        write_inputs(tmp_path),
        kernel={"enabled": False},
        curvature={"sizes": []},
        heavy_tails={"enabled": False},
    )
    file, artifacts = tmp_path / "mine.yaml", tmp_path / "artifacts"
    settings = config.model_dump(mode="json", exclude_defaults=True)
    file.write_text(yaml.safe_dump({"pipelines": {"tiny": settings}}))
    result = run("tiny", file=file, artifacts=artifacts, overrides=["sweep.measure_target=false"])
    assert set(result.ranking["candidate"]) == {"narrow", "wide"}
    assert result.truth == {}
    read = lensllm.read_result(artifacts, "tiny")
    assert read.verdict == result.verdict
    assert (artifacts / "reports" / "tiny" / "predictions.csv").is_file()

"""A scheduled run makes again what depends on a change, nothing else, and says which."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
import yaml
from transformers import GPT2LMHeadModel

from flows.server import embedded_server
from lensllm.store import Ref, Store
from tests.tasks import project


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    config = project.write_inputs(tmp_path, rows=160).model_dump(mode="json")
    del config["curvature"], config["heavy_tails"]
    config["sweep"] |= {"max": 16, "measure_target": False}
    config["kernel"] = {"enabled": False}
    config["tracking"] = {"enabled": False}
    config["engine"] = {"slots": 1}
    file = tmp_path / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"pipelines": {"nightly": config}}))
    return file


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    with embedded_server(home) as url:
        yield url


_RUN = """
import sys
from flows.scheduled import scheduled

state = scheduled(*sys.argv[1:], return_state=True)
print(state.name, state.message, sep="\\t")
"""


@pytest.mark.full
def test_a_change_recomputes_what_depends_on_it(pipelines: Path, server: str) -> None:
    artifacts = pipelines.parent / "artifacts"
    store = Store(artifacts)

    def again() -> tuple[str, str, set[Ref]]:
        """A run in a process of its own, as they are: the state's name, what it says was computed,
        and the cells that are there."""
        words = ["nightly", str(pipelines), str(artifacts)]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *words],
            env=os.environ | {"PREFECT_API_URL": server},
            capture_output=True,
            text=True,
            check=True,
        )
        name, _, message = done.stdout.splitlines()[-1].partition("\t")
        return name, message.partition(";")[0], set(store.refs("finetune"))

    name, said, cells = again()
    assert name == "Completed"
    assert said == (
        "computed checks 1, curve 1, dataset 1, drift 1, finetune 8, inspection 1, law 1, "
        "probe 2, ranking 1, report 1, sample 1, tokens 1"
    )
    name, said, same = again()
    assert (name, same) == ("Unchanged", cells)
    assert said.startswith("nothing changed since 20")

    # one candidate's weights: its own cells, and what reads all cells
    wide = GPT2LMHeadModel.from_pretrained(pipelines.with_name("wide"))
    with torch.no_grad():
        wide.transformer.wte.weight *= 0.9
    wide.save_pretrained(pipelines.with_name("wide"))
    name, said, more = again()
    assert (name, said) == (
        "Completed",
        "computed checks 1, curve 1, finetune 4, law 1, probe 1, ranking 1, report 1",
    )
    assert (cells < more, len(more - cells)) == (True, 4)

    # new rows: everything that is made of the data
    with (pipelines.with_name("rows.jsonl")).open("a") as rows:
        rows.write('\n{"prompt": "a new row", "completion": "row new a"}')
    name, said, _ = again()
    assert (name, said) == (
        "Completed",
        "computed checks 1, curve 1, dataset 1, drift 1, finetune 8, inspection 1, law 1, "
        "probe 2, ranking 1, report 1, sample 1, tokens 1",
    )

    # a candidate that is not there any more: said, and nothing ranked
    shutil.rmtree(pipelines.with_name("wide"))
    name, said, _ = again()
    assert name == "Failed"
    assert "no such folder" in said


def test_a_run_that_made_nothing_but_is_new_is_not_called_unchanged() -> None:
    from flows.ending import Outcome
    from flows.progress import Tally
    from flows.scheduled import ended

    now = datetime(2026, 11, 28, 2, tzinfo=UTC)
    tally = Tally()
    tally.cached["finetune"] = 3
    fine = Outcome(None, (), Path())  # type: ignore[arg-type]
    before = ended(fine, tally, now - timedelta(days=1), now)
    assert (before.name, before.message) == (
        "Unchanged",
        "nothing changed since 2026-11-27 02:00 UTC: everything cached (3 artefacts)",
    )
    assert ended(fine, tally, now, now).name == "Completed"  # another process made it meanwhile
    partly = Outcome(None, (("finetune a", "out of memory"),), Path())  # type: ignore[arg-type]
    incomplete = ended(partly, tally, now, now)
    assert incomplete.name == "Incomplete"
    assert incomplete.is_completed()
    assert incomplete.message.endswith("failed: finetune a: out of memory")

"""A scheduled run makes again what depends on a change, nothing else, and says which."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import GPT2LMHeadModel

from flows.server.prefect_server import embedded_server
from lensllm.store.artifacts import Ref, Store
from tests.hub_server import Hub, Repository, hub_of_our_own
from tests.tasks import project

hub = pytest.fixture(hub_of_our_own)

# A run: the state's name, what it says was computed, and the cells that are there.
Again = Callable[[], tuple[str, str, set[Ref]]]


def write(folder: Path, widths: dict[str, int] = project.WIDTHS) -> Path:
    """A pipeline ``nightly`` of checkpoints in ``folder``; its file."""
    config = project.write_inputs(folder, widths, rows=160).model_dump(mode="json")
    del config["curvature"], config["heavy_tails"]
    config["sweep"] |= {"max": 16, "measure_target": False}
    config["kernel"] = {"enabled": False}
    config["tracking"] = {"enabled": False}
    config["engine"] = {"slots": 1}
    file = folder / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"pipelines": {"nightly": config}}))
    return file


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    with embedded_server(home) as server:
        yield server.url


_RUN = """
import sys
from flows.schedules.scheduled import scheduled

state = scheduled(*sys.argv[1:], return_state=True)
print(state.name, state.message, sep="\\t")
"""


@pytest.fixture
def again(tmp_path: Path, server: str) -> Again:
    """Runs the pipeline in a process of its own, as they are."""
    artifacts = tmp_path / "artifacts"

    def run() -> tuple[str, str, set[Ref]]:
        words = ["nightly", str(tmp_path / "pipelines.yaml"), str(artifacts)]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *words],
            env=os.environ | {"PREFECT_API_URL": server},
            capture_output=True,
            text=True,
            check=True,
        )
        name, _, message = done.stdout.splitlines()[-1].partition("\t")
        return name, message.partition(";")[0], set(Store(artifacts).refs("finetune"))

    return run


@pytest.mark.full
def test_a_change_recomputes_what_depends_on_it(tmp_path: Path, again: Again) -> None:
    pipelines = write(tmp_path)
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


def hosted(folder: Path, name: str) -> Repository:
    """A repository whose branches main and dev are the checkpoint ``name``."""
    repository = Repository()
    repository.commit(folder / name, "dev")
    return repository


@pytest.mark.full
def test_a_commit_on_the_hub_recomputes_what_depends_on_it(
    tmp_path: Path, again: Again, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One candidate is whatever main is, one whatever dev is, and one a folder."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    file = write(tmp_path, {"narrow": 16, "wide": 32, "ours": 24})
    narrow, wide = (hosted(tmp_path, name) for name in ("narrow", "wide"))
    hub.repositories |= {"org/narrow": narrow, "org/wide": wide}
    content = yaml.safe_load(file.read_text())
    content["pipelines"]["nightly"]["candidates"][:2] = ["org/narrow", "org/wide@dev"]
    file.write_text(yaml.safe_dump(content))

    def fetched() -> list[str]:
        """Repository and commit of the weights that the hub was asked for since last time."""
        asked = [path.split("/") for path in hub.asked if path.startswith("GET /org")]
        hub.asked.clear()
        return [f"{p[2]}@{p[4]}" for p in asked if p[-1] == "model.safetensors"]

    first, was = narrow.refs["main"], wide.refs["dev"]
    name, said, cells = again()
    assert (name, said) == (
        "Completed",
        "computed checks 1, curve 1, dataset 1, download 2, drift 1, finetune 12, inspection 1, "
        "law 1, probe 3, ranking 1, report 1, sample 1, tokens 1",
    )
    assert sorted(fetched()) == [f"narrow@{first}", f"wide@{was}"]
    name, said, same = again()
    assert (name, same, fetched()) == ("Unchanged", cells, [])

    # other weights on main: that candidate's, and what reads all cells
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "narrow")
    with torch.no_grad():
        model.transformer.wte.weight *= 0.9
    shutil.copytree(tmp_path / "narrow", tmp_path / "better")
    model.save_pretrained(tmp_path / "better")
    second = narrow.commit(tmp_path / "better")
    name, said, more = again()
    assert (name, said) == (
        "Completed",
        "computed checks 1, curve 1, download 1, finetune 4, law 1, probe 1, ranking 1, report 1",
    )
    assert cells < more
    assert candidates(tmp_path, more - cells) == ["narrow"] * 4
    assert fetched() == [f"narrow@{second}"]

    # a commit on a branch that nobody asked for
    shutil.copytree(tmp_path / "better", tmp_path / "elsewhere")
    wide.commit(tmp_path / "elsewhere")
    name, said, same = again()
    assert (name, same, fetched()) == ("Unchanged", more, [])
    assert said.startswith("nothing changed since 20")

    # another tokenizer on dev: its tokens too, and the same weights are not fetched again
    shutil.copytree(tmp_path / "wide", tmp_path / "reworded")
    with (tmp_path / "reworded" / "tokenizer_config.json").open("a") as stream:
        stream.write("\n")
    wide.commit(tmp_path / "reworded", "dev")
    name, said, most = again()
    assert (name, said) == (
        "Completed",
        "computed checks 1, curve 1, download 1, finetune 4, inspection 1, law 1, probe 1, "
        "ranking 1, report 1, tokens 1",
    )
    assert candidates(tmp_path, most - more) == ["wide"] * 4
    assert fetched() == []

    # dev is as it was: nothing to compute, but another ranking than the last run's
    wide.refs["dev"] = was
    name, said, same = again()
    assert (name, said, same) == ("Completed", "computed nothing", most)
    name, said, same = again()
    assert (name, same) == ("Unchanged", most)


def candidates(folder: Path, cells: set[Ref]) -> list[str]:
    store = Store(folder / "artifacts")
    return [store.table(cell, "cell")["candidate"][0] for cell in cells]


def test_a_run_that_made_nothing_but_is_new_is_not_called_unchanged() -> None:
    from flows.running.ending import Outcome
    from flows.running.terminal import Tally
    from flows.schedules.scheduled import ended

    now = datetime(2026, 11, 28, 2, tzinfo=UTC)
    tally = Tally()
    tally.cached["finetune"] = 3
    fine = Outcome(SimpleNamespace(failed=()), Path())  # type: ignore[arg-type]
    yesterday = now - timedelta(days=1)
    same = ended(fine, tally, yesterday, yesterday)
    assert (same.name, same.message) == (
        "Unchanged",
        "nothing changed since 2026-11-27 02:00 UTC: everything cached (3 artefacts)",
    )
    assert ended(fine, tally, None, now).name == "Completed"
    assert ended(fine, tally, yesterday, now).name == "Completed"  # or another process made it
    failed = SimpleNamespace(failed=(("finetune a", "out of memory"),))
    partly = Outcome(failed, Path())  # type: ignore[arg-type]
    incomplete = ended(partly, tally, now, now)
    assert incomplete.name == "Incomplete"
    assert incomplete.is_completed()
    assert incomplete.message.endswith("failed: finetune a: out of memory")

"""Cells that are killed, that run out of memory and that run on two processes, as artefacts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lensllm.config.sections import Pipeline
from lensllm.store.artifacts import Store
from tasks.base.step import Cell, Step
from tasks.planning.make import make
from tasks.planning.plan import make_plan
from tests.tasks import project

CELL = Cell("narrow", 32, 0)
_MAKE = """
import json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from lensllm.training import resume
from lensllm.store import Recipe, Ref
from tasks.planning.make import make

told = json.load(sys.stdin)
slow = resume.Checkpoints.due
def due(self):
    time.sleep(told["pause"])
    return slow(self)
resume.Checkpoints.due = due
upstream = {role: Ref(*ref) for role, ref in told["upstream"].items()}
recipe = Recipe(told["stage"], told["version"], told["params"], upstream)
print("ready", flush=True)
make(Path(sys.argv[1]), recipe, told["hints"])
"""


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    plain = project.write_inputs(tmp_path, {"narrow": 16})
    return project.changed(plain, curvature={"sizes": []}, engine={"checkpoint_minutes": 1e-6})


def _prepared(config: Pipeline, store: Store) -> Step:
    plan = make_plan(config, store)
    cell = plan.cells[CELL]
    wanted = {
        cell.recipe.upstream["tokens"],
        cell.recipe.upstream["sample"],
        plan["dataset"][""].ref,
    }
    project.make_all(store, [step for step in plan.preparation if step.ref in wanted])
    return cell


def _start(store: Store, step: Step, pause: float) -> "subprocess.Popen[str]":
    """A process that makes ``step``, a checkpoint after each of its slow steps."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MAKE, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stdin
    told = {**step.recipe.describe(), "hints": dict(step.hints), "pause": pause}
    process.stdin.write(json.dumps(told))
    process.stdin.close()
    return process


def _row(store: Store, step: Step) -> pd.Series:
    row = store.table(step.ref, "cell").iloc[0]
    return row.drop(["seconds", "peak_memory_bytes"])


@pytest.mark.full
@pytest.mark.slow
def test_a_cell_killed_again_and_again_is_the_artefact_of_one_that_was_not(
    tmp_path: Path, config: Pipeline, store: Store
):
    """24 steps in three epochs; kill -9 from outside once the checkpoint is at or past a step."""
    step = _prepared(config, store)
    partial = store.partial(step.ref)
    for reached in (3, 11, 20):
        process = _start(store, step, pause=0.1)
        while not any(
            int(p.name.split("-")[0]) >= reached for p in partial.glob("*-of-*.safetensors")
        ):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not store.has(step.ref)
        store.prepare()  # as the next command does, which must not throw the checkpoint away
        assert partial.is_dir()
    assert step.ref in store.unreferenced(set())
    assert _start(store, step, pause=0.0).wait() == 0
    assert not partial.exists()

    other = Store(tmp_path / "other")
    other.prepare()
    again = _prepared(config, other)
    assert _start(other, again, pause=0.0).wait() == 0
    assert again.ref == step.ref
    assert _row(other, again).equals(_row(store, step))
    assert other.table(again.ref, "epochs").equals(store.table(step.ref, "epochs"))
    spent, once = (s.table(step.ref, "cell")["seconds"].iloc[0] for s in (store, other))
    assert spent > 20 * 0.1 + once / 2  # all attempts


def test_checkpoints_of_what_is_made_or_unwanted_are_removed(config: Pipeline, store: Store):
    step = _prepared(config, store)
    partial = store.partial(step.ref)
    partial.mkdir(parents=True)
    (partial / "weights").write_bytes(b"x" * 100)
    assert store.size_bytes(step.ref) == 100
    assert store.remove(step.ref) == 100
    assert not partial.exists()
    make(store.root, step.recipe, step.hints)
    partial.mkdir(parents=True)  # the maker died right after publishing
    store.prepare()
    assert not partial.exists()


@pytest.mark.slow
def test_a_cell_of_two_processes_is_that_of_one(tmp_path: Path, config: Pipeline, store: Store):
    rows = []
    for processes in (1, 2):
        here = store if processes == 1 else Store(tmp_path / "two")
        here.prepare()
        step = _prepared(project.changed(config, engine={"processes": processes}), here)
        make(here.root, step.recipe, step.hints)
        rows.append(here.table(step.ref, "cell").iloc[0])
    one, two = rows
    assert (one["processes"], two["processes"]) == (1, 2)
    # dropout draws differently on each rank, so only nearly
    assert two["nats_per_token"] == pytest.approx(one["nats_per_token"], rel=0.05)
    assert (one["parameters"], one["steps"]) == (two["parameters"], two["steps"])


def test_a_fit_is_remembered_and_said(config: Pipeline, store: Store):
    from lensllm.models import load
    from lensllm.training.memory import BatchPlan, BatchSizeTuner, device_name
    from tasks.planning.make import note

    step = _prepared(config, store)
    device = load.choose_device("auto")
    name = f"{step.hints['fits']}-{device_name(device, None)}.json"
    BatchSizeTuner(store.root / ".fits" / name)._remember(
        BatchPlan(micro_batch=1, checkpointing=True)
    )
    make(store.root, step.recipe, step.hints)
    row = store.table(step.ref, "cell").iloc[0]
    assert (row["micro_batch"], row["batch_size"]) == (1, 4)
    assert row["gradient_checkpointing"]
    assert note(store, step) == "1 of 4 examples at a time, to fit, activations computed twice"
    assert store.has(step.ref)  # and its key knows nothing of it

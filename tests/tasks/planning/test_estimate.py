"""What a cell asks an engine for is what its probe measured."""

from dataclasses import replace
from pathlib import Path

from lensllm.store.artifacts import Store
from tasks.planning.estimate import peak_bytes
from tasks.planning.plan import make_plan
from tests.tasks import project


def test_memory_is_the_probes_and_unknown_before(tmp_path: Path):
    store = Store(tmp_path / "artifacts")
    store.prepare()
    config = project.write_inputs(tmp_path, {"narrow": 16})
    config = project.changed(config, heavy_tails={"enabled": False})
    plan = make_plan(config, store)
    cell = next(iter(plan.cells.values()))
    assert peak_bytes(plan, cell) is None
    upstream = [
        *plan["dataset"].values(),
        *plan["sample"].values(),
        *plan["tokens"].values(),
        *plan["probe"].values(),
    ]
    project.make_all(store, upstream)
    measured = store.table(plan["probe"]["narrow"].ref, "throughput")["peak_memory_bytes"][0]
    assert peak_bytes(plan, cell) == measured > 1e8
    assert peak_bytes(plan, plan["tokens"]["narrow"]) is None
    assert peak_bytes(plan, replace(cell, hints={})) is None

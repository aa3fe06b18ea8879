"""The probe of a candidate: what its key depends on, when it is made, and what reads it."""

import pytest

from lensllm.config.sections import Pipeline
from lensllm.store.artifacts import Store
from lensllm.training import throughput
from tasks.planning import estimate
from tasks.planning.plan import make_plan, plan_ranking
from tasks.stages import probe
from tests.tasks import project


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = project.write_inputs(tmp_path_factory.mktemp("inputs"))
    lean = project.changed(
        made, curvature={"sizes": []}, heavy_tails={"enabled": False}, sweep={"max": 16}
    )
    return project.changed(lean, kernel={"enabled": False, "pretraining_text": None})


def _refs(config: Pipeline, store: Store) -> dict[str, object]:
    return {name: step.ref for name, step in make_plan(config, store)["probe"].items()}


def test_the_key_holds_what_decides_the_speed(config: Pipeline, store: Store, monkeypatch):
    mine = _refs(config, store)
    assert (
        _refs(project.changed(config, finetune={"learning_rate": 1e-4, "epochs": 9}), store) == mine
    )
    assert _refs(project.changed(config, finetune={"batch_size": 8}), store) != mine
    assert _refs(project.changed(config, engine={"slots": 7}), store) != mine
    monkeypatch.setattr(throughput, "machine", lambda: {"cpu": "another", "cores": 2, "gpus": []})
    assert not set(_refs(config, store).values()) & set(mine.values())


def test_a_candidates_own_recipe_is_probed_and_predicted(config: Pipeline, store: Store):
    first, second = config.candidates
    own = second.model_copy(update={"finetune": {"batch_size": 8, "epochs": 6}})
    changed = config.model_copy(update={"candidates": (first, own)})
    before, after = _refs(config, store), _refs(changed, store)
    assert before[first.name] == after[first.name]
    assert before[second.name] != after[second.name]
    plain, twice = (estimate.forecast(make_plan(c, store), 1) for c in (config, changed))
    assert twice.candidates[0].flops_full == plain.candidates[0].flops_full
    # of 64 examples, 10 to validate and 20 to test on, 3 and 6 times over; training counts thrice
    three, six = 3 * 3 * 64 + 4 * 10 + 20 + 64, 3 * 6 * 64 + 7 * 10 + 20 + 64
    ratio = twice.candidates[1].flops_full / plain.candidates[1].flops_full
    assert ratio == pytest.approx(six / three, rel=0.01)


def test_the_plan_is_by_probes_where_there_are_some(config: Pipeline, store: Store):
    plan = make_plan(config, store)
    guessed = estimate.forecast(plan, 2)
    assert {c.throughput_source for c in guessed.candidates} == {"assumed"}

    steps = [
        *plan["dataset"].values(),
        *plan["sample"].values(),
        *plan["tokens"].values(),
        *plan["probe"].values(),
    ]
    project.make_all(store, steps)
    known = estimate.forecast(plan, 2)
    assert {c.throughput_source for c in known.candidates} == {"probe"}
    for candidate, step in zip(known.candidates, plan["probe"].values(), strict=True):
        found = probe.read(store, step.ref)
        assert candidate.peak_bytes == found.peak_memory_bytes
        assert candidate.seconds_to_run > candidate.cells * found.load_seconds
    assert known.minutes == pytest.approx(sum(c.seconds_to_run for c in known.candidates) / 120)


@pytest.fixture(scope="module")
def finished(config: Pipeline, tmp_path_factory: pytest.TempPathFactory):
    """A whole run: where it is, its plan, what its sweep came to and its conclusion."""
    store = Store(tmp_path_factory.mktemp("finished") / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    played = project.play(store, plan)
    return store, plan, played, project.finish(store, plan, played)


def test_predicted_flops_are_those_of_the_cells(config: Pipeline, finished):
    """But for which examples a subset holds."""
    store, plan, _, conclusion = finished
    found = store.table(conclusion.ref("report"), "forecast")
    assert set(found["candidate"]) == set(plan["probe"])
    assert (found["predicted_flops"] / found["flops"]).between(0.9, 1.1).all()
    assert (found["predicted_seconds"] > 0).all()
    page = (store.path(conclusion.ref("report")) / "report.html").read_text()
    assert "Predicted against actual" in page
    told = estimate.forecast(plan, 1)
    assert sum(c.flops_full for c in told.candidates) == pytest.approx(
        store.table(conclusion.ref("ranking"), "cost")["full_flops"].sum(), rel=0.1
    )


def test_a_finished_sweep_is_not_probed_on_another_machine(config, finished, monkeypatch):
    store, _, played, conclusion = finished
    monkeypatch.setattr(throughput, "machine", lambda: {"cpu": "another", "cores": 64, "gpus": []})

    again = make_plan(config, store)
    assert all(store.has(step.ref) for step in again.steps)
    assert plan_ranking("tiny", again, [], played.cells, ()).ref("report") == conclusion.ref(
        "report"
    )

    longer = make_plan(project.changed(config, sweep={"max": 32}), store)
    assert not any(store.has(step.ref) for step in longer["probe"].values())

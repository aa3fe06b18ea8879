"""Who has an overlap, what it depends on, and what its loss costs: nothing but itself."""

from pathlib import Path

import pytest

from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core.errors import DataError
from lensllm.store.artifacts import Store
from tasks.planning.plan import check, make_plan, plan_ranking
from tasks.stages import overlap
from tests.tasks import project

ROOT = Path(__file__).parents[3]
EMBEDDED = ["builtin:gpt2-nano-docs", "builtin:neo-micro-topics"]


@pytest.fixture
def own(tmp_path: Path) -> Pipeline:
    """Two checkpoints and a text."""
    return project.write_inputs(tmp_path)


def mixed(own: Pipeline, **kernel: object) -> Pipeline:
    """Embedded candidates beside checkpoints."""
    content = project.changed(own, kernel=kernel).model_dump(mode="json")
    return Pipeline.model_validate(
        content | {"candidates": [*EMBEDDED, *(c.model for c in own.candidates)]}
    )


def overlaps(store: Store, config: Pipeline) -> dict[str, object]:
    return {name: step.ref for name, step in make_plan(config, store)["overlap"].items()}


def test_embedded_candidates_have_their_own_text_and_others_the_users(store: Store, own: Pipeline):
    both = overlaps(store, mixed(own))
    assert both.keys() == {"gpt2-nano-docs", "neo-micro-topics", "narrow", "wide"}
    none = overlaps(store, mixed(own, pretraining_text=None))
    assert none == {name: ref for name, ref in both.items() if name not in ("narrow", "wide")}
    assert overlaps(store, mixed(own, enabled=False)) == {}


def test_another_text_is_another_overlap(store: Store, own: Pipeline):
    before = overlaps(store, own)
    assert before == overlaps(store, own)
    Path(own.kernel.pretraining_text or "").write_text("other\n\ntexts")
    assert before.keys() == overlaps(store, own).keys()
    assert not set(before.values()) & set(overlaps(store, own).values())


def test_there_are_never_more_than_sixty_four_probes(store: Store):
    def probes(*overrides: str) -> set[object]:
        loaded = configfile.load(ROOT / "pipelines.yaml", "demo", overrides)
        made = make_plan(loaded, store)["overlap"].values()
        return {step.recipe.params["probes"] for step in made}

    assert probes("kernel.probes=16") == {16}
    assert probes("kernel.probes=500") == {64}


def test_a_text_that_cannot_be_used_is_refused_before_the_sweep(store: Store, own: Pipeline):
    Path(own.kernel.pretraining_text or "").write_text("one\n\ntwo")
    with pytest.raises(DataError, match=r"2 distinct texts .* each of 6 probes"):
        check(own, store)
    check(project.changed(own, kernel={"enabled": False}), store)
    missing = project.changed(own, kernel={"pretraining_text": "missing.txt"})
    with pytest.raises(DataError, match=r"no such file: missing\.txt"):
        make_plan(missing, store)


def test_a_lost_overlap_is_missing_from_the_report_alone(store: Store, own: Pipeline):
    made = make_plan(project.changed(own, heavy_tails={"enabled": False}), store)
    project.make_all(store, made.preparation)
    whole = plan_ranking("tiny", made, [], made.cells, [])
    store.remove(made["overlap"]["wide"].ref)
    fewer = plan_ranking("tiny", made, [], made.cells, [])
    assert whole.steps[:-1] == fewer.steps[:-1]
    shown, left = (set(ending["report"][""].recipe.upstream) for ending in (whole, fewer))
    assert shown - left == {"overlap:wide"}


def test_what_mlflow_shows_are_numbers(store: Store, own: Pipeline):
    made = make_plan(own, store)
    step = made["overlap"]["narrow"]
    project.make_all(store, made.with_dependencies([step]))
    row = overlap.STAGE.mlflow(store, step.ref)
    assert (row.pop("candidate"), row.pop("method")) == ("narrow", "exact")
    numbers = {name: float(value) for name, value in row.items()}
    assert numbers["probes"] == 6
    assert 0 <= numbers["alignment"] <= 1

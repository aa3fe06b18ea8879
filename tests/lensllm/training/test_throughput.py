"""What a probe measures, and what follows from it."""

import time

import pandas as pd
import pytest
import torch

from lensllm.config.sections import FineTune
from lensllm.models.batch import Example
from lensllm.models.cost import forward_flops, shape_of, train_flops
from lensllm.store.schemas import schema
from lensllm.training import throughput
from lensllm.training.throughput import Throughput
from tests.lensllm import families

EXAMPLES = [Example(list(range(1, 8)), list(range(3, 9))) for _ in range(40)]
SETTINGS = FineTune(batch_size=4, epochs=7)


class _Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _measure(monkeypatch, seconds_per_token: float, examples=EXAMPLES):
    """Of a model whose passes take exactly so long per token and nothing else takes any time."""
    clock, steps = _Clock(), []
    monkeypatch.setattr(time, "perf_counter", clock)
    model = families.build("llama").float()

    def pause(module, args, kwargs):
        tokens = kwargs["input_ids"].numel()
        clock.now += seconds_per_token * tokens * (3 if module.training else 1)
        steps.append(module.training)

    model.register_forward_pre_hook(pause, with_kwargs=True)
    shape = shape_of(model)
    found = throughput.measure_throughput(
        model,
        examples,
        SETTINGS,
        device=torch.device("cpu"),
        dtype=torch.float32,
        train_flops=lambda some: train_flops(shape, some, 1),
        forward_flops=lambda some: forward_flops(shape, some),
    )
    return found, sum(steps), shape


def test_the_pace_is_flops_over_seconds(monkeypatch):
    found, steps, shape = _measure(monkeypatch, 1e-3)
    tokens = len(EXAMPLES[0])
    assert found.steps == 18
    assert steps == 20  # two to warm up
    # an epoch validates one example after its 6 steps of 4
    step = 4 * tokens * 3e-3 + tokens * 1e-3 / 6
    assert found.step_seconds == pytest.approx(step)
    expected = train_flops(shape, EXAMPLES[:4], 1) / step
    assert found.train_flops_per_second == pytest.approx(expected)
    expected = forward_flops(shape, EXAMPLES[:1]) / (tokens * 1e-3)
    assert found.evaluation_flops_per_second == pytest.approx(expected)


@pytest.mark.parametrize(("step_seconds", "steps"), [(2.0, 9), (4.0, 3), (12.0, 1), (60.0, 1)])
def test_slow_steps_are_fewer(monkeypatch, step_seconds, steps):
    per_token = step_seconds / (4 * len(EXAMPLES[0]) * 3)
    found, _, _ = _measure(monkeypatch, per_token)
    assert found.steps == steps


def test_with_fewer_examples_than_a_batch(monkeypatch):
    found, _, _ = _measure(monkeypatch, 1e-3, EXAMPLES[:3])
    assert found.steps == 3  # one an epoch
    assert found.step_seconds > 0


def test_a_cell_is_its_load_its_training_and_what_it_reads():
    mine = Throughput(30.0, 10.0, 60.0, 5.0, load_seconds=2.0, peak_memory_bytes=1e9)
    assert mine.flops(100, 20) == 100 * 30 + 20 * 10
    assert mine.seconds(100, 20) == 2 + 100 * 30 / 60 + 20 * 10 / 5
    assert mine.seconds(0, 0) == 2


def test_predicted_and_measured_side_by_side():
    row = {"candidate": "a", "train_flops": 3e3, "evaluation_flops": 1e3, "peak_memory_bytes": 7}
    row |= {"repeat": 0, "trunk_examples": 0, "trunk_flops": 0.0, "evaluated_examples": 20}
    cells = pd.DataFrame(
        [
            {**row, "size": 0, "epochs": 0, "seconds": 1.0},
            {**row, "size": 100, "epochs": 2, "seconds": 9.0, "peak_memory_bytes": 8},
            {**row, "candidate": "not probed", "size": 0, "epochs": 0, "seconds": 1.0},
        ]
    )
    mine = Throughput(30.0, 10.0, 60.0, 5.0, load_seconds=2.0, peak_memory_bytes=6)
    found = throughput.compare_with_cells({"a": mine}, cells)
    assert list(found.columns) == schema("report/forecast").names
    (line,) = found.to_dict("records")
    assert line["cells"] == 2
    assert line["predicted_seconds"] == 2 * (2 + 40) + 100
    assert line["seconds"] == 10.0
    assert line["predicted_flops"] == 200 * 30 + 2 * 20 * 10
    assert line["flops"] == 8e3
    assert (line["predicted_peak_memory_bytes"], line["peak_memory_bytes"]) == (6, 8)
    assert throughput.compare_with_cells({}, cells).empty


def test_branches_share_the_trunk_of_the_largest():
    row = {"candidate": "a", "repeat": 0, "epochs": 1, "seconds": 1.0, "peak_memory_bytes": 7}
    row |= {"evaluation_flops": 0.0, "evaluated_examples": 0}
    cells = pd.DataFrame(
        [
            {**row, "size": 100, "trunk_examples": 80, "train_flops": 6e2, "trunk_flops": 24e2},
            {**row, "size": 200, "trunk_examples": 160, "train_flops": 12e2, "trunk_flops": 48e2},
        ]
    )
    mine = Throughput(30.0, 10.0, 60.0, 5.0, load_seconds=2.0, peak_memory_bytes=6)
    (line,) = throughput.compare_with_cells({"a": mine}, cells).to_dict("records")
    assert line["flops"] == line["predicted_flops"] == (160 + 20 + 40) * 30
    assert line["predicted_seconds"] == 2 * 2 + (160 + 20 + 40) * 30 / 60


def test_the_machine_is_named():
    machine = throughput.machine()
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine == throughput.machine()

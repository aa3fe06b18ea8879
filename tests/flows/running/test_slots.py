"""How many cells at a time, on which GPUs."""

import pytest

from flows.running import slots
from lensllm.config.sections import Engine


@pytest.mark.parametrize(
    ("visible", "processes", "expected"),
    [
        ("", 1, (8, 1, ())),
        ("0,1,2,3", 1, (4, 2, ("0", "1", "2", "3"))),
        ("0,1,2,3", 2, (2, 2, ("0,1", "2,3"))),
        ("0,1,2", 2, (1, 4, ("0,1",))),
        ("0", 2, (1, 4, ("0",))),  # too few: the cell says so
        ("", 2, (4, 1, ())),
    ],
)
def test_a_slot_has_the_gpus_of_a_cell(monkeypatch, visible, processes, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(slots, "cores", lambda: 8)
    assert slots.slots_of(Engine(processes=processes)) == expected

"""How many cells at a time a Ray cluster is asked for."""

from typing import Any

import pytest

from flows.running.slots import slots_of
from lensllm.config.sections import Engine
from lensllm.workers import ray_cluster

GPU_NODE = {"CPU": 16.0, "GPU": 4.0, "memory": 1e11}
CPU_NODE = {"CPU": 8.0, "memory": 3e10}
MANAGER = {"memory": 1e10}  # a head node that is to compute nothing


@pytest.mark.parametrize(
    ("nodes", "engine", "slots", "threads"),
    [
        ([CPU_NODE, CPU_NODE], {}, 16, 1),
        ([CPU_NODE, MANAGER], {}, 8, 1),
        ([CPU_NODE, CPU_NODE], {"slots": 4}, 4, 4),
        ([CPU_NODE, CPU_NODE], {"slots": 1}, 1, 8),  # a cell is on one node
        ([GPU_NODE, GPU_NODE], {"gpu_share": 1.0}, 8, 4),
        ([GPU_NODE, GPU_NODE], {"gpu_share": 0.5}, 16, 2),
        ([GPU_NODE, CPU_NODE], {"gpu_share": 1.0}, 4, 4),
        ([GPU_NODE], {}, 16, 1),  # up to eight share a GPU, and each has a core
        ([GPU_NODE, CPU_NODE], {"device": "cpu"}, 24, 1),
        ([GPU_NODE, GPU_NODE], {"processes": 2}, 4, 4),  # a GPU for each process of a cell
        ([CPU_NODE], {"processes": 4}, 2, 1),
        ([MANAGER], {}, 1, 1),
    ],
)
def test_slots_and_threads_are_counted_over_the_nodes(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    engine: dict[str, Any],
    slots: int,
    threads: int,
) -> None:
    monkeypatch.setattr(ray_cluster, "connect", lambda address: None)
    monkeypatch.setattr(ray_cluster, "nodes", lambda: nodes)
    assert slots_of(Engine.model_validate({"kind": "ray", **engine})) == (slots, threads, ())

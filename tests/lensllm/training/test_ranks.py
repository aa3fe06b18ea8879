"""A cell on two processes has the losses of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.training.ranks import Ranks


@given(st.lists(st.integers(), min_size=1, max_size=20), st.integers(1, 5))
def test_every_item_counts_once_and_all_ranks_have_equally_many(items: list[int], size: int):
    shares = [Ranks(rank, size).share(items) for rank in range(size)]
    assert len({len(mine) for mine, _ in shares}) == 1
    counted = [mine[:count] for mine, count in shares]
    assert sorted(items) == sorted(i for mine in counted for i in mine)
    whole = [counted[i % size][i // size] for i in range(len(items))]
    assert whole == items


# Whatever the number of ranks, the same program. Without dropout, whose draws are each rank's own.
_RANK = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import fine_tune
from lensllm.config.sections import FineTune
from lensllm.training import memory
from lensllm.training.optimiser import Optimiser
from lensllm.training.ranks import joined, shard
from lensllm.training.trunk import train_branch
from lensllm.training.resume import Checkpoints
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, VALIDATION, tiny

rank, size, folder, micro = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
with joined(rank, size, folder / f"meeting-{size}-{micro}", CPU) as ranks:
    found = {}
    for kind in ("gpt2", "t5"):
        for stop in (2, 9):
            class Stopping(Checkpoints):
                steps = 0
                def due(self):
                    self.steps += 1
                    if self.steps > stop:
                        raise KeyboardInterrupt
                    return self.steps == 2
            model = shard(tiny(kind, dropout=0.0), ranks, CPU)
            tuner = memory.BatchSizeTuner()
            tuner.plan = memory.BatchPlan(micro_batch=micro)
            try:
                tuned = fine_tune(
                    model, TRAIN[:39], VALIDATION[:11],
                    FineTune(batch_size=13, epochs=3, learning_rate=1e-3), seed=3, device=CPU,
                    dtype=FLOAT, tuner=tuner, ranks=ranks,
                    checkpoints=Stopping(folder / f"{kind}-{size}-{micro}", 60, {}, ranks))
            except KeyboardInterrupt:
                continue
            test = evaluate(model, VALIDATION, device=CPU, dtype=FLOAT, ranks=ranks)
            found[kind] = [[e.train_nats_per_token for e in tuned.epochs[1:]],
                           [e.validation_nats_per_token for e in tuned.epochs],
                           [test.nats], test.examples.tolist()]
    for kind in ("gpt2", "t5"):
        kept = []  # the branch of 39 examples continues the trunk that the one of 20 left
        for count in (20, 39):
            settings = FineTune(batch_size=13, learning_rate=1e-3, warmup_steps=1)
            model = shard(tiny(kind, dropout=0.0), ranks, CPU)
            optimiser = Optimiser(model, settings, device=CPU, dtype=FLOAT, ranks=ranks)
            branch = train_branch(
                optimiser, TRAIN[:count], VALIDATION[:11], seed=3, start=kept[-1] if kept else None,
                keep=lambda place, state: kept.append((place, state())))
            found[f"{kind} {count}"] = [[branch.best.validation_nats_per_token]]
        sums = [float(tensor.double().sum()) for _, state in kept for tensor in state.values()]
        found[f"{kind} states"] = [[len(sums), sum(sums)]]
    if ranks.first:
        print(json.dumps(found), flush=True)
os._exit(0)  # as workers and ranks do: torch's threads do not always survive Python's end
"""


def _ranks(size: int, folder: Path, micro: int) -> dict[str, list[list[float]]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(size), str(folder), str(micro)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate() for process in processes]
    assert all(p.returncode == 0 for p in processes), [err[-1500:] for _, err in said]
    found: dict[str, list[list[float]]] = json.loads(said[0][0])
    return found


@pytest.mark.full
@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path):
    """To float32's rounding; interrupted after two steps and gone on from a checkpoint, too, and
    with batches that leave one rank nothing in its last part."""
    one, two = _ranks(1, tmp_path, 0), _ranks(2, tmp_path, 3)
    for kind, losses in one.items():
        for wanted, found in zip(losses, two[kind], strict=True):
            assert found == pytest.approx(wanted, rel=2e-5)

"""A killed cell goes on to the same bits, whenever it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensllm.training.resume import Checkpoints

# A process that kills itself at a moment named on its command line, really, by SIGKILL.
_CELL = """
import json, os, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
from lensllm.training.loop import fine_tune
from lensllm.config.sections import FineTune
from lensllm.training import resume
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, VALIDATION, tiny

folder, kind, moment, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(resume.Checkpoints):
    steps = 0
    def due(self):
        Dying.steps += 1
        if moment == "step" and Dying.steps == count:
            die()
        return super().due() and Dying.steps % 2 == 0

saves = 0
def write(tensors, path, header):
    global saves
    saves += 1
    save_file(tensors, path, header)
    if moment == "write" and saves == count:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        die()
resume.save_file = write

def on_epoch(epoch):
    if moment == "epoch" and epoch.epoch == count:
        die()

model = tiny(kind)
tuned = fine_tune(
    model, TRAIN, VALIDATION, FineTune(batch_size=8, epochs=3, learning_rate=1e-2), seed=3,
    device=CPU, dtype=FLOAT, on_epoch=on_epoch,
    checkpoints=Dying(folder / "partial", 0.0, {"device": "cpu"}) if moment != "never" else None,
)
save_file({n: p.detach() for n, p in model.named_parameters()}, folder / f"{moment}.safetensors")
print(json.dumps([vars(e) for e in tuned.epochs]))
"""


def _run(folder: Path, kind: str, moment: str, count: int = 0) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-c", _CELL, str(folder), kind, moment, str(count)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, -signal.SIGKILL), run.stderr[-2000:]
    return run.returncode, run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("t5", marks=pytest.mark.full)])
def test_a_cell_killed_at_any_moment_ends_with_the_same_bits(tmp_path: Path, kind: str):
    """15 steps in three epochs: killed in the first epoch, while it writes, between epochs, and in
    the last one, one attempt after another."""
    _, wanted = _run(tmp_path, kind, "never")
    for moment, count in (("step", 4), ("write", 2), ("epoch", 1), ("step", 7)):
        code, _ = _run(tmp_path, kind, moment, count)
        assert code == -signal.SIGKILL
        assert len(list((tmp_path / "partial").glob("*.safetensors"))) == 1
    code, found = _run(tmp_path, kind, "end")
    assert code == 0
    assert found == wanted
    whole, gone_on = (load_file(tmp_path / f"{name}.safetensors") for name in ("never", "end"))
    assert all(torch.equal(weight, gone_on[name]) for name, weight in whole.items())


def _save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {"step": step}, {"w": torch.full((3,), float(step))})


def test_the_last_whole_checkpoint_counts(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, 60, {"torch": "2"})
    assert checkpoints.load() is None
    _save(checkpoints, 9)
    _save(checkpoints, 10)
    (tmp_path / "11-0-of-1.new").write_bytes(b"half")
    saved = Checkpoints(tmp_path, 60, {"torch": "2"}).load()
    assert saved is not None
    state, tensors = saved
    assert state == {"step": 10}
    assert tensors["w"].tolist() == [10.0] * 3


@pytest.mark.parametrize("damage", ["versions", "bytes", "processes"])
def test_what_cannot_be_gone_on_from_is_left(tmp_path: Path, damage: str):
    _save(Checkpoints(tmp_path, 60, {"torch": "2"}), 5)
    path = tmp_path / "5-0-of-1.safetensors"
    if damage == "bytes":
        path.write_bytes(path.read_bytes()[:-5])
    if damage == "processes":
        path.rename(tmp_path / "5-0-of-2.safetensors")
    versions = {"torch": "3" if damage == "versions" else "2"}
    assert Checkpoints(tmp_path, 60, versions).load() is None


def test_time_is_that_of_all_attempts(tmp_path: Path):
    """What a kill lost too, to the second of the last step."""
    first = Checkpoints(tmp_path, 60, {})
    assert first.seconds_before == 0.0
    first._began -= 100
    first._beat -= 2
    assert not first.due()
    second = Checkpoints(tmp_path, 60, {})
    assert second.seconds_before == pytest.approx(100, abs=1)
    second._began -= 50
    second._beat -= 2
    second.due()
    assert json.loads((tmp_path / "spent.json").read_text())["seconds"] == pytest.approx(150, abs=1)


def test_a_clock_that_jumps_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell, now = Checkpoints(tmp_path, 60, {}), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    cell._beat -= 2
    assert not cell.due()
    assert 0 <= Checkpoints(tmp_path, 60, {}).seconds_before < 60


def test_a_short_cell_writes_nothing(tmp_path: Path):
    folder = tmp_path / "partial"
    checkpoints = Checkpoints(folder, 300, {})
    assert not any(checkpoints.due() for _ in range(10))
    assert not folder.exists()

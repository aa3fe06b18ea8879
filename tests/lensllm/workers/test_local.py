"""Jobs that crash, hang, raise and are killed: each fails alone, and no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lensllm.core.errors import DataError
from lensllm.core.processes import started
from lensllm.workers.local import WorkerError, Workers
from tests.waiting import HANG_SECONDS


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers(2, 1, gpus=["0", "1"])
    yield workers
    workers.close()


def gone(pid: int, within_seconds: float = HANG_SECONDS) -> bool:
    """Whether process ``pid`` ends soon."""
    return soon(lambda: started(pid) is None, within_seconds)


def soon(condition: Callable[[], bool], within_seconds: float = HANG_SECONDS) -> bool:
    deadline = time.monotonic() + within_seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_process_is_started_once_and_stays_warm(workers: Workers) -> None:
    first = workers.call(os.getpid, label="first")
    assert first == workers.call(os.getpid, label="second")
    assert first != os.getpid()


def test_a_process_is_told_its_threads_and_hears_no_ctrl_c(workers: Workers) -> None:
    import torch

    assert workers.call(torch.get_num_threads, label="threads") == 1
    assert workers.call(os.getenv, "OMP_NUM_THREADS", label="OpenMP") == "1"
    blocked = workers.call(signal.pthread_sigmask, signal.SIG_BLOCK, [], label="signals")
    assert signal.SIGINT in blocked


def test_each_slot_has_a_process_and_a_gpu_of_its_own(workers: Workers, tmp_path: Path) -> None:
    """Both jobs wait for the other's file, so they can only end when they run side by side."""
    names = ["a", "b"]
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(workers.call, _meet, tmp_path, n, names, label=n) for n in names]
        assert soon(lambda: set(names) == set(workers.running()))
        (tmp_path / "go").touch()
        met = [job.result() for job in jobs]
    assert len({pid for pid, _ in met}) == 2
    assert {gpu for _, gpu in met} == {"0", "1"}
    assert workers.running() == []


@pytest.mark.parametrize(
    ("crash", "args", "cause"),
    [(os._exit, (3,), "exit code 3"), (signal.raise_signal, (signal.SIGKILL,), "signal SIGKILL")],
    ids=["exit", "kill -9"],
)
def test_a_crash_fails_its_own_job_only(
    workers: Workers, tmp_path: Path, crash: Callable[..., object], args: tuple[int], cause: str
) -> None:
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(workers.call, _wait_for, tmp_path / "go", label="other")
        assert soon(lambda: workers.running() == ["other"])
        with pytest.raises(WorkerError, match=f"^gpt2 on 400: .* died \\({cause}\\)"):
            workers.call(crash, *args, label="gpt2 on 400")
        (tmp_path / "go").touch()
        assert other.result() == tmp_path / "go"
    assert workers.call(abs, -1, label="after the crash") == 1


def test_a_job_is_killed_when_its_time_is_up(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^slow: stopped after its time limit of 0\.2 s"):
        workers.call(_wait_for, tmp_path / "never", timeout_seconds=0.2, label="slow")
    assert workers.call(abs, -1, label="after the timeout") == 1


def test_a_slot_survives_the_death_of_its_idle_process(workers: Workers) -> None:
    pid = workers.call(os.getpid, label="before")
    os.kill(pid, signal.SIGKILL)
    assert workers.call(os.getpid, label="after") != pid


@pytest.mark.parametrize("error", [DataError("too small"), TimeoutError("theirs"), OSError(5, "x")])
def test_what_a_job_raises_comes_back_as_itself(workers: Workers, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        workers.call(_raise, error, label="raises")
    assert type(error) is type(caught.value)
    assert error.args == caught.value.args
    assert "in _raise" in caught.value.__notes__[0]


class _TwoArguments(Exception):
    """Pickles, but does not unpickle: a common mistake in libraries."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


def test_an_error_that_does_not_pickle_comes_back_as_text(workers: Workers) -> None:
    with pytest.raises(RuntimeError, match="_TwoArguments: loss at step 3"):
        workers.call(_raise_two, label="raises")
    with pytest.raises(RuntimeError, match="SystemExit: 2"):
        workers.call(sys.exit, 2, label="exits")


def test_a_result_that_does_not_pickle_fails_its_job_only(workers: Workers) -> None:
    pid = workers.call(os.getpid, label="before")
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        workers.call(threading.Lock, label="lock")
    assert pid == workers.call(os.getpid, label="after")


def test_closing_with_kill_frees_every_caller(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    pid = workers.call(os.getpid, label="pid")
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(workers.call, _wait_for, tmp_path / "never", label="running")
        assert soon(lambda: workers.running() == ["running"])
        waiting = threads.submit(workers.call, abs, -1, label="waiting")
        workers.close(kill=True)
        for job, label in ((running, "running"), (waiting, "waiting")):
            with pytest.raises(WorkerError, match=f"^{label}: stopped before it was done"):
                job.result()
    assert gone(pid)
    with pytest.raises(WorkerError, match="stopped before it was done"):
        workers.call(abs, -1, label="late")


def test_closing_without_a_call_starts_nothing() -> None:
    before = psutil.Process().children()
    Workers(2, 1).close()
    assert before == psutil.Process().children()


_SWEEP = """
import os, sys, threading, time
import numpy  # before the worker could say how many threads
from threadpoolctl import threadpool_info
from lensllm.workers.local import Workers

if __name__ == "__main__":
    workers = Workers(2, 1)
    def sweep():  # a thread that ends must not take the warm processes with it
        print(workers.call(os.getpid, label="pid"), flush=True)
    for _ in range(2):
        thread = threading.Thread(target=sweep)
        thread.start()
        thread.join()
    print({pool["num_threads"] for pool in workers.call(threadpool_info, label="numpy")})
    threading.Thread(target=workers.call, args=(time.sleep, 600), kwargs={"label": "x"}).start()
    threading.Thread(target=workers.call, args=(time.sleep, 600), kwargs={"label": "y"}).start()
    while len(workers.running()) < 2:
        time.sleep(0.05)
    print("running", flush=True)
    time.sleep(600)
"""


def test_no_process_survives_kill_9_of_the_parent(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(_SWEEP)
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    with subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        first, second, threads, running = (parent.stdout.readline().strip() for _ in range(4))
        assert (threads, running) == ("{1}", "running")
        children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        parent.kill()
    assert first == second
    assert int(first) in children
    assert all(gone(pid) for pid in children)


def _wait_for(path: Path) -> Path:
    while not path.exists():
        time.sleep(0.02)
    return path


def _meet(folder: Path, name: str, names: list[str]) -> tuple[int, str | None]:
    (folder / name).touch()
    for other in [*names, "go"]:
        _wait_for(folder / other)
    return os.getpid(), os.getenv("CUDA_VISIBLE_DEVICES")


def _raise(error: Exception) -> None:
    raise error


def _raise_two() -> None:
    raise _TwoArguments("loss", "step 3")

"""Jobs on a real Ray cluster of two nodes: lost processes, lost nodes, limits, and what each gets."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensllm.core.errors import ConfigError, DataError
from lensllm.core.processes import started
from lensllm.workers import ray_workers
from lensllm.workers.local import WorkerError
from lensllm.workers.ray_cluster import connect
from lensllm.workers.ray_workers import MARK, RayWorkers
from tests import ray_nodes
from tests.waiting import HANG_SECONDS

ray = pytest.importorskip("ray", reason="needs the extra lensllm[ray]")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes.cluster(num_cpus=1, num_gpus=1) as made:
        ray_nodes.add(made, num_cpus=1, num_gpus=1)
        yield made
        ray.shutdown()


@pytest.fixture
def workers(cluster: Any, tmp_path: Path) -> Iterator[RayWorkers]:
    """For two jobs at a time."""
    workers = RayWorkers(tmp_path, cluster.address, threads=1)
    yield workers
    workers.close(kill=True)


def soon(condition: Callable[[], bool], within_seconds: float = HANG_SECONDS) -> bool:
    deadline = time.monotonic() + within_seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_jobs_run_elsewhere_in_warm_processes_with_their_threads(workers: RayWorkers) -> None:
    import torch

    seen = {workers.call(os.getpid, label="pid") for _ in range(6)}
    assert os.getpid() not in seen
    assert len(seen) <= 2  # as many as processors
    assert workers.call(torch.get_num_threads, label="threads") == 1
    assert workers.call(os.umask, 0o022, label="umask") == _umask()


def test_what_a_job_raises_comes_back_as_itself_and_is_not_tried_again(
    workers: RayWorkers, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="too small") as caught:
        workers.call(_count_and_raise, tmp_path / "calls", label="raises")
    assert "in _count_and_raise" in caught.value.__notes__[0]
    assert (tmp_path / "calls").read_text() == "x"


def test_a_killed_process_reruns_its_job_and_no_other(workers: RayWorkers, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(
            workers.call, _count_and_wait, tmp_path / "other", tmp_path / "go", label="other"
        )
        assert soon(lambda: workers.running() == ["other"])
        assert workers.call(_die_once, tmp_path / "died", label="dies") == "alive"
        (tmp_path / "go").touch()
        other.result()
    assert (tmp_path / "other").read_text() == "x"
    assert workers.running() == []


def test_a_job_that_always_dies_fails_alone(workers: RayWorkers) -> None:
    with pytest.raises(WorkerError, match=r"^dies: its process was lost 3 times"):
        workers.call(signal.raise_signal, signal.SIGKILL, label="dies")
    assert workers.call(abs, -1, label="after") == 1


@pytest.mark.full
def test_a_lost_node_reruns_its_job_on_another(
    cluster: Any, workers: RayWorkers, tmp_path: Path
) -> None:
    node = ray_nodes.add(cluster, num_cpus=1)
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(workers.call, _where, tmp_path, name, label=name) for name in "abc"]
        assert soon(lambda: len(list(tmp_path.glob("*.at-*"))) == 3)
        (lost,) = (path.name[0] for path in tmp_path.glob(f"*.at-{node.node_id}"))
        cluster.remove_node(node, allow_graceful=False)
        assert soon(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 2)
        (tmp_path / "go").touch()
        ended = {job.result() for job in jobs}
    assert node.node_id not in ended
    begun = {name: len(list(tmp_path.glob(f"{name}.at-*"))) for name in "abc"}
    assert begun == {name: 2 if name in lost else 1 for name in "abc"}


def test_a_time_limit_counts_from_the_start_and_kills(workers: RayWorkers, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        for name in "ab":
            threads.submit(workers.call, _wait_for, tmp_path / "go", label=name)
        assert soon(lambda: len(workers.running()) == 2)
        threading.Timer(3.0, (tmp_path / "go").touch).start()
        assert workers.call(abs, -1, timeout_seconds=2.0, label="queued") == 1
    with pytest.raises(WorkerError, match=r"^slow: stopped after its time limit of 2 s"):
        workers.call(_note_and_wait, tmp_path / "pid", timeout_seconds=2.0, label="slow")
    assert soon(lambda: started(int((tmp_path / "pid").read_text())) is None)


@pytest.mark.full
def test_each_job_has_a_gpu_of_its_own_and_small_ones_share(cluster: Any, tmp_path: Path) -> None:
    workers = RayWorkers(tmp_path, cluster.address, threads=1, gpus=None, gpu_bytes=80e9)
    with ThreadPoolExecutor(2) as threads:
        whole = [threads.submit(workers.call, _meet, tmp_path, n, "ab", label=n) for n in "ab"]
        met = [job.result() for job in whole]
        assert len({node for node, _ in met}) == 2  # a GPU each, on either node
        assert {gpu for _, gpu in met} == {"0"}
    one = ray_nodes.add(cluster, num_cpus=2, num_gpus=1)
    with ThreadPoolExecutor(4) as threads:
        parts = [
            threads.submit(workers.call, _meet, tmp_path, n, "cdef", label=n, memory_bytes=10e9)
            for n in "cdef"
        ]
        met = [job.result() for job in parts]
        assert max(Counter(node for node, _ in met).values()) == 2  # side by side on one GPU
    cluster.remove_node(one)


@pytest.mark.parametrize(
    ("memory_bytes", "share"),
    [(None, 1), (7.4e9, 1 / 8), (7.5e9, 1 / 4), (15.4e9, 1 / 4), (31e9, 1 / 2), (40e9, 1)],
)
def test_the_part_of_a_gpu_holds_what_was_measured_with_a_margin(
    cluster: Any, tmp_path: Path, memory_bytes: float | None, share: float
) -> None:
    """Of 80 GB, an eighth is 10 GB: 1.25 x 7.4 + 0.7 = 9.95 fit."""
    workers = RayWorkers(tmp_path, cluster.address, threads=1, gpus=None, gpu_bytes=80e9)
    assert workers._needs(memory_bytes) == {"CPU": 1.0, "GPU": share}


def test_a_job_of_several_processes_asks_for_the_gpus_and_processors_of_all(
    cluster: Any, tmp_path: Path
) -> None:
    workers = RayWorkers(tmp_path, cluster.address, threads=3, gpus=2.0, processes=2)
    assert workers._needs(1e9) == {"CPU": 6.0, "GPU": 2.0}


@pytest.mark.full  # now and then the cluster of the tests before takes the job all the same
def test_memory_is_asked_for_and_too_much_is_a_sentence(
    workers: RayWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers._needs(5e8) == {"CPU": 1.0, "GPU": 0.0, "memory": 500_000_000}
    assert workers.call(abs, -1, label="fits", memory_bytes=5e8) == 1
    monkeypatch.setattr(ray_workers, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(ray_workers, "_LOOK_SECONDS", 0.2)
    with pytest.raises(
        WorkerError, match=r"^big: no node .* has 1 processors, 9e\+15 bytes of mem"
    ):
        workers.call(abs, -1, label="big", memory_bytes=9e15)


def test_a_node_with_another_folder_is_named(workers: RayWorkers, tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("another one")
    with pytest.raises(WorkerError, match=f"^x: node .* does not see the artifacts .*{tmp_path}"):
        workers.call(abs, -1, label="x")


def test_closing_with_kill_frees_every_caller(cluster: Any, tmp_path: Path) -> None:
    workers = RayWorkers(tmp_path, cluster.address, threads=1)
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(workers.call, _note_and_wait, tmp_path / n, label=n) for n in "abc"]
        assert soon(lambda: len(list(tmp_path.glob("[abc]"))) == 2)
        workers.close(kill=True)
        for job, label in zip(jobs, "abc", strict=True):
            with pytest.raises(WorkerError, match=f"^{label}: stopped before it was done"):
                job.result()
    pids = [int(path.read_text()) for path in tmp_path.glob("[abc]")]
    assert soon(lambda: all(started(pid) is None for pid in pids))


_COMMAND = """
import sys, time
from pathlib import Path
from lensllm.workers.ray_workers import RayWorkers

workers = RayWorkers(Path(sys.argv[1]), sys.argv[2], threads=1)
workers.call(eval, "(__import__('pathlib').Path(%r).write_text(str(__import__('os').getpid())), "
             "__import__('time').sleep(600))" % sys.argv[3], label="x")
"""


@pytest.mark.full
def test_no_job_survives_kill_9_of_the_command(cluster: Any, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(tmp_path), cluster.address, str(note)]
    ) as command:
        assert soon(lambda: note.exists() and note.read_text() != "")
        command.kill()
    assert soon(lambda: started(int(note.read_text())) is None)


_SHADOWED = """
import sys
from pathlib import Path
from lensllm.workers.ray_workers import RayWorkers

workers = RayWorkers(Path(sys.argv[1]), sys.argv[2], threads=1)
print(workers.call(abs, -1, label="x"))
workers.close()
"""


def test_modules_of_our_names_in_the_users_folder_are_not_imported(
    cluster: Any, tmp_path: Path
) -> None:
    """Ray adds the folder of its driver to where its workers import from."""
    for name in ("lensllm", "tasks", "flows"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken for ours')")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SHADOWED, str(tmp_path), cluster.address],
        cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_joining_leaves_the_signals_alone(cluster: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ray.shutdown()
    connect(cluster.address)
    assert before == signal.getsignal(signal.SIGTERM)


def test_the_cluster_listens_on_loopback_only(cluster: Any, workers: RayWorkers) -> None:
    workers.call(abs, -1, label="x")
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    addresses = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert addresses


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_where_no_cluster_is_there_is_a_sentence(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.shutdown()
    with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}'.*ray start --head"):
        connect(address)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _count(path: Path) -> None:
    with path.open("a") as stream:
        stream.write("x")


def _count_and_raise(path: Path) -> None:
    _count(path)
    raise DataError("too small")


def _count_and_wait(path: Path, go: Path) -> None:
    _count(path)
    _wait_for(go)


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def _note_and_wait(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(600)


def _die_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _where(folder: Path, name: str) -> str:
    """Waits until told to go; a file says on which node it began."""
    (folder / f"{name}.at-{_node()}").touch()
    _wait_for(folder / "go")
    return _node()


def _meet(folder: Path, name: str, names: str) -> tuple[str, str | None]:
    (folder / f"met-{name}").touch()
    for other in names:
        _wait_for(folder / f"met-{other}")
    return _node(), os.getenv("CUDA_VISIBLE_DEVICES")

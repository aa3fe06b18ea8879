"""Cells on the nodes of a Ray cluster, by the same ``call`` as ``Workers`` has.

A job is a Ray task of a warm process. Ray finds it a node with the processors, GPU and memory that
it asks for; a job whose process or node is lost runs again, elsewhere, and nobody else does. The
nodes share the artifacts folder, and the store's locks, as processes of one machine do.
"""

from __future__ import annotations

import functools
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensllm.workers import ray_cluster
from lensllm.workers.local import (
    JOBS_PER_PROCESS,
    Caller,
    WorkerError,
    out_of_time,
    perform,
    settle,
    stopped,
)

# A node is lost to maintenance or a crash now and then; a job that takes its process with it every
# time is the job's own fault.
_LOSSES = 2
# A job that no node is large enough for waits this long for one to come, as after a loss.
_PATIENCE_SECONDS = 300.0
_LOOK_SECONDS = 5.0
# Parts of a GPU that cells share, so that those of several models fill it without a remainder.
_SHARES = (1 / 8, 1 / 4, 1 / 2)
# The allocator's cache and the CUDA context come on top of the memory that a probe measures.
_GPU_MARGIN, _GPU_CONTEXT_BYTES = 1.25, 0.7e9
MARK = ".shared"  # in the artifacts folder; a node that reads another one has another folder


class RayWorkers(Caller):
    """Runs jobs in a Ray cluster; safe to call from many threads.

    Args:
        folder: artifacts folder, at this path on every node.
        address: of the cluster; ``auto``: RAY_ADDRESS, or the one that this machine belongs to.
        threads: processors of each of a job's processes, and cap on its threads.
        gpus: GPUs of a job, or a part of one; None: one, or the part that its memory needs; 0 for
            jobs that run on processors.
        gpu_bytes: memory of the smallest GPU; None: the cluster is asked.
        processes: of a job, all on one node.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        threads: int,
        gpus: float | None = 0.0,
        gpu_bytes: float | None = None,
        processes: int = 1,
    ) -> None:
        ray_cluster.connect(address)
        self._tasks = _tasks()
        self._mark = (folder / MARK, _mark(folder / MARK))
        self._threads = threads
        self._processes = processes
        self._gpus = gpus
        if gpus is None and gpu_bytes is None:  # now, while no job of ours holds one
            gpu_bytes = ray_cluster.smallest_gpu_bytes(_SHARES[0])
        self._gpu_bytes = gpu_bytes or 0.0
        self._umask = _umask()
        self._jobs: dict[Any, str] = {}  # Ray's handle of a job and its label, oldest first
        self._started: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False

    def _outcome(
        self, payload: bytes, timeout: float | None, label: str, memory_bytes: float | None
    ) -> bytes:
        needs = self._needs(memory_bytes)
        lost = ""
        for _ in range(1 + _LOSSES):
            outcome, lost = self._run(payload, needs, timeout, label)
            if outcome is not None:
                return outcome
        raise WorkerError(
            f"{label}: its process was lost {1 + _LOSSES} times ({lost}); the other jobs go on. If "
            "its node ran out of memory, use smaller batches, or let fewer cells share a node."
        )

    def running(self) -> list[str]:
        """Labels of the jobs now on a node, oldest first."""
        with self._lock:
            return [label for job, label in self._jobs.items() if job in self._started]

    def close(self, kill: bool = False) -> None:
        """Refuse new jobs, wait for the running ones (``kill``: end them)."""
        import ray

        with self._lock:
            self._closed = True
            jobs = list(self._jobs) if kill else []
        for job in jobs:
            ray.cancel(job, force=True)
        while self._jobs:
            time.sleep(0.02)

    # --- one job -----------------------------------------------------------------------------
    def _run(
        self, payload: bytes, needs: Mapping[str, float], timeout: float | None, label: str
    ) -> tuple[bytes | None, str]:
        """The job's pickled outcome, or None and why its process was lost."""
        import ray

        with self._submitted(payload, needs, label) as job:
            try:
                self._wait_for_start(job, needs, label)
                if node := ray.get(next(job)):
                    raise WorkerError(
                        f"{label}: node {node} does not see the artifacts folder "
                        f"{self._mark[0].parent}; it must be on a file system that all nodes "
                        "share, at the same path"
                    )
                if not ray.wait([job], timeout=timeout)[0]:
                    ray.cancel(job, force=True)
                    raise out_of_time(label, timeout)
                return ray.get(next(job)), ""
            except ray.exceptions.TaskCancelledError as error:
                raise stopped(label) from error
            except ray.exceptions.OutOfMemoryError as error:
                raise WorkerError(
                    f"{label}: its node ran out of memory; the other jobs go on. Use smaller "
                    "batches, or fewer processors per node (ray start --num-cpus)."
                ) from error
            except ray.exceptions.RayTaskError as error:
                raised = str(error).strip().rsplit("\n", 1)[-1]  # on the node
                raise WorkerError(
                    f"{label}: its node cannot run it ({raised}); install the same lensllm and "
                    "Python on every node"
                ) from error
            except ray.exceptions.RayError as error:
                if self._closed:
                    raise stopped(label) from error
                return None, ray_cluster.first_line(error)

    @contextmanager
    def _submitted(self, payload: bytes, needs: Mapping[str, float], label: str) -> Iterator[Any]:
        """The job's handle while it is ours to wait for."""
        with self._lock:  # so that close(kill=True) misses no job
            if self._closed:
                raise stopped(label)
            task = self._tasks[bool(needs["GPU"])].options(
                num_cpus=needs["CPU"], num_gpus=needs["GPU"], memory=needs.get("memory")
            )
            job = task.remote(payload, self._threads, self._umask, *self._mark)
            self._jobs[job] = label
        try:
            yield job
        finally:
            with self._lock:
                del self._jobs[job]
                self._started.discard(job)

    def _wait_for_start(self, job: Any, needs: Mapping[str, float], label: str) -> None:
        """Return when the job runs. WorkerError: no node could take it, and none has come."""
        import ray

        begin = time.monotonic()
        while not ray.wait([job], timeout=_LOOK_SECONDS)[0]:
            if ray_cluster.can_hold(needs):
                begin = time.monotonic()
            elif time.monotonic() - begin > _PATIENCE_SECONDS:
                ray.cancel(job, force=True)
                raise WorkerError(f"{label}: {ray_cluster.too_large(needs)}")
        with self._lock:
            self._started.add(job)

    def _needs(self, memory_bytes: float | None) -> dict[str, float]:
        """Resources of a job, by Ray's names; a whole GPU where its memory is not known."""
        gpus = self._gpus
        if gpus is None:
            wanted = _GPU_MARGIN * (memory_bytes or math.inf) + _GPU_CONTEXT_BYTES
            gpus = next((share for share in _SHARES if wanted <= share * self._gpu_bytes), 1.0)
        needs = {"CPU": float(self._threads * self._processes), "GPU": gpus}
        if memory_bytes and not gpus:  # with a GPU, the memory is the GPU's
            needs["memory"] = math.ceil(memory_bytes)
        return needs


def _tasks() -> tuple[Any, Any]:
    """``_job`` as a Ray task on processors, and as one with a GPU."""
    import ray

    # ``call`` counts losses itself and says what was lost. A process that has used a GPU keeps some
    # of its memory as long as it lives.
    return (
        ray.remote(max_retries=0, max_calls=JOBS_PER_PROCESS)(_job),
        ray.remote(max_retries=0, max_calls=1)(_job),
    )


def _job(
    payload: bytes, threads: int, umask: int, mark: Path, identity: str
) -> Iterator[str | bytes | None]:
    """On a node: says that it runs, or which node it is that has another folder; then the outcome.

    A generator, so that a time limit counts from here and not from the queue.
    """
    if _read(mark) != identity:
        yield os.uname().nodename
        return
    yield None
    os.umask(umask)
    _settle(threads)
    yield perform(payload)


_settle = functools.cache(settle)  # once in a process, whose later jobs find it warm


# --- the folder that all share -------------------------------------------------------------------
def _mark(path: Path) -> str:
    """The name that the folder of ``path`` has for itself, a new one if it has none."""
    if not _read(path):
        draft = path.with_name(f"{MARK}-{secrets.token_hex(8)}")
        draft.write_text(secrets.token_hex(16))
        draft.replace(path)
    return _read(path)


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""Worker processes for cells: a thread can be neither stopped nor isolated.

Each slot is a warm process (torch and transformers are imported once: 2.5 s, 260 MB) that runs one
job at a time. A job that crashes or runs out of time fails alone; the slot gets a new process.
Each slot is a pebble pool of ONE: a pool of many shares one channel between its processes, is lost
whole when an idle one is killed, and cannot say which process gets which GPU.
"""

import logging
import os
import pickle
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context, resource_tracker
from typing import TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool
from threadpoolctl import threadpool_limits

from lensllm.core.errors import LensError
from lensllm.core.processes import die_with_parent

T = TypeVar("T")

# A process is replaced after this many jobs, so that what native allocators never give back stays
# bounded; at 2.5 s a start that costs 13 ms a job.
JOBS_PER_PROCESS = 200

# The console is the parent's: these libraries print progress bars and advice unless told not to.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class WorkerError(LensError):
    """A job's process died, ran out of time or was stopped."""


class Stopped(WorkerError):
    """The job was ended, or never begun, because its workers were closed."""


class Caller(ABC):
    """Runs functions in other processes."""

    def call(
        self,
        function: Callable[..., T],
        *args: object,
        timeout_seconds: float | None = None,
        label: str,
        memory_bytes: float | None = None,
    ) -> T:
        """Run ``function(*args)`` in a worker and wait for its result.

        Args:
            function: importable by its module's name; it, its arguments and its result are pickled.
            timeout_seconds: kill the job after this long; waiting for a place does not count.
            label: what the user calls this job, for messages and ``running``.
            memory_bytes: what the job is expected to take at most, of the GPU where it has one; a
                Ray cluster chooses a node by it.

        Raises:
            WorkerError: the process died, the time was up, or no node is large enough; ``Stopped``:
                ``close`` came first.
            Exception: whatever ``function`` raised, with the worker's traceback as a note.
        """
        payload = pickle.dumps((function, args))
        outcome = self._outcome(payload, timeout_seconds, label, memory_bytes)
        succeeded, value = pickle.loads(outcome)
        if not succeeded:
            raise value
        result: T = value
        return result

    @abstractmethod
    def _outcome(
        self, payload: bytes, timeout: float | None, label: str, memory_bytes: float | None
    ) -> bytes:
        """The answer of ``perform`` to the payload."""


class Workers(Caller):
    """A fixed number of slots, each a warm process; safe to call from many threads.

    Processes start when first needed: a run whose every cell is cached starts none.

    Args:
        slots: jobs at a time.
        threads_per_worker: cap on torch's and the linear algebra libraries' threads in a process.
        gpus: names for CUDA_VISIBLE_DEVICES; slot i sees only ``gpus[i % len(gpus)]``. Empty:
            every slot sees what this process sees.
    """

    def __init__(self, slots: int, threads_per_worker: int, gpus: Sequence[str] = ()) -> None:
        if slots < 1 or threads_per_worker < 1:
            raise ValueError(f"slots={slots}, threads_per_worker={threads_per_worker}: at least 1")
        # Workers die with the THREAD that starts them (see die_with_parent) and inherit its
        # blocked signals: so one thread of ours starts them all, and it never sees Ctrl-C.
        self._keeper = ThreadPoolExecutor(1, "lensllm-workers", initializer=_block_interrupt)
        self._slots = [
            _Slot(self._keeper, threads_per_worker, gpus[i % len(gpus)] if gpus else None)
            for i in range(slots)
        ]
        self._free = self._slots[::-1]  # a stack: the warmest slot is taken first
        self._jobs: dict[_Slot, tuple[str, ProcessFuture[bytes]]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def _outcome(
        self, payload: bytes, timeout: float | None, label: str, memory_bytes: float | None
    ) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise stopped(label)
            slot = self._free.pop()
        try:
            return self._run(slot, payload, timeout, label)
        finally:
            with self._changed:
                self._jobs.pop(slot, None)
                self._free.append(slot)
                self._changed.notify_all()

    def running(self) -> list[str]:
        """Labels of the jobs now in a worker, oldest first."""
        with self._changed:
            return [label for label, _ in self._jobs.values()]

    def close(self, kill: bool = False) -> None:
        """Refuse new jobs, wait for the running ones (``kill``: end them), stop every process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if kill:
                for _, future in self._jobs.values():
                    future.cancel()  # type: ignore[no-untyped-call]
            self._changed.wait_for(lambda: len(self._free) == len(self._slots))
        for slot in self._slots:
            slot.stop()
        self._keeper.shutdown()

    def _run(self, slot: "_Slot", payload: bytes, timeout: float | None, label: str) -> bytes:
        """The job's pickled outcome. A slot whose IDLE process was killed is renewed, once."""
        for last in (False, True):
            try:
                with self._changed:  # so that close(kill=True) misses no job
                    if self._closed:
                        raise stopped(label)
                    future = slot.schedule(payload, timeout)
                    self._jobs[slot] = (label, future)
                return future.result()
            except CancelledError as error:
                raise stopped(label) from error
            except TimeoutError as error:
                raise out_of_time(label, timeout) from error
            except ProcessExpired as error:
                raise WorkerError(
                    f"{label}: its worker process died ({_cause(error.exitcode)}); the other jobs "
                    "go on. If the machine ran out of memory, use fewer slots or smaller batches."
                ) from error
            except RuntimeError as error:  # pebble's word for a pool that is broken
                slot.stop()
                if last:
                    raise WorkerError(
                        f"{label}: no worker process could be started for it; what the process "
                        "printed above says why."
                    ) from error
        raise AssertionError("unreachable")


class _Slot:
    """One worker process at a time, started when first needed and again when lost."""

    def __init__(self, keeper: ThreadPoolExecutor, threads: int, gpu: str | None) -> None:
        self._keeper = keeper
        self._warm_up = (os.getpid(), threads, gpu)
        self._pool: ProcessPool | None = None

    def schedule(self, payload: bytes, timeout: float | None) -> ProcessFuture[bytes]:
        """Send one job to the process. RuntimeError: the pool is broken, ``stop`` it."""
        if self._pool is None:
            self._pool = self._keeper.submit(self._start).result()
        return self._pool.schedule(perform, (payload,), timeout=timeout)

    def stop(self) -> None:
        """End the process, if there is one; ``schedule`` starts another."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def _start(self) -> ProcessPool:
        pool = ProcessPool(1, JOBS_PER_PROCESS, _warm_up, self._warm_up, get_context("spawn"))
        assert pool.active  # asking is what starts the process, here in the keeper's thread
        return pool


def _warm_up(parent: int, threads: int, gpu: str | None) -> None:
    """First thing in a new worker, before any job."""
    die_with_parent(parent)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    settle(threads)


def settle(threads: int) -> None:
    """Quiet libraries with so many threads, in a process that runs jobs."""
    # What is damaged the command has named; each of its workers would again.
    logging.getLogger("lensllm.store.artifacts").setLevel(logging.ERROR)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ |= _QUIET
    import torch  # only now: it reads those variables when it is loaded
    from tqdm import tqdm

    # Its own lock is a semaphore between processes, which a worker's hard exit would leave behind.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    # A new process first imports the main script again, and with it, maybe, NumPy.
    threadpool_limits(threads)


def perform(payload: bytes) -> bytes:
    """In the worker: run one job. Bytes both ways, so what does not pickle fails only its job."""
    try:
        function, args = pickle.loads(payload)
        return pickle.dumps((True, function(*args)))
    except BaseException as error:
        return pickle.dumps((False, _portable(error)))


def _portable(error: BaseException) -> Exception:
    """The error itself where it survives pickling, else its text; the traceback as a note."""
    portable: Exception = RuntimeError(f"{type(error).__name__}: {error}")
    with suppress(Exception):
        same = pickle.loads(pickle.dumps(error))
        portable = same if isinstance(same, Exception) else portable
    portable.add_note(f"In the worker process:\n{traceback.format_exc()}")
    return portable


def _block_interrupt() -> None:
    resource_tracker.ensure_running()  # starting it unblocks SIGINT, so it must come first
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def out_of_time(label: str, timeout: float | None) -> WorkerError:
    return WorkerError(
        f"{label}: stopped after its time limit of {timeout:g} s; the other jobs go on. Give it "
        "more time, or make it smaller."
    )


def stopped(label: str) -> Stopped:
    return Stopped(f"{label}: stopped before it was done; run again to go on from here.")


def _cause(exitcode: int) -> str:
    """``-9`` → ``signal SIGKILL``; ``3`` → ``exit code 3``."""
    names = {known.value: known.name for known in signal.Signals}
    return f"exit code {exitcode}" if exitcode >= 0 else f"signal {names.get(-exitcode, -exitcode)}"

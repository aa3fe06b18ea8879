"""Run steps as Prefect tasks: one task run per artefact, and one, *Cached*, for all that the store
has of a candidate's stage: a thousand of their own would take the server half a minute."""

from __future__ import annotations

import logging
import queue
import random
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from prefect import Task, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from lensllm.core.errors import DiskFullError, LensError, listing
from lensllm.core.secrets import mask
from lensllm.store.artifacts import Ref, Store
from lensllm.workers.local import Stopped, WorkerError, Workers
from lensllm.workers.ray_workers import RayWorkers
from tasks.base.step import Step
from tasks.execution.in_process import Attempt
from tasks.planning.make import make, note

log = logging.getLogger("lensllm.run")


class Observer(Protocol):
    """Receiver of a run's events: the terminal, Prefect's artefacts, MLflow."""

    def planned(self, steps: Sequence[Step]) -> None:
        """Steps are to come."""

    def changed(self, step: Step, state: str, seconds: float = 0.0, text: str = "") -> None:
        """A step is running, done, cached, failed or skipped; ``text`` is a note or the reason."""


class Run(Attempt):
    """State that all tasks of a run share. A plain class, so Prefect passes it untouched."""

    def __init__(
        self, store: Store, workers: Workers | RayWorkers, observers: Sequence[Observer]
    ) -> None:
        super().__init__(store)
        self.workers = workers
        self.observers = observers
        self.peak_bytes: Callable[[Step], float | None] = lambda step: None  # as far as foreseen
        self.halted = ""  # why nothing more is begun

    def planned(self, steps: Sequence[Step]) -> None:
        self._notify(lambda observer: observer.planned(steps))

    def changed(self, step: Step, state: str, seconds: float = 0.0, text: str = "") -> None:
        self._notify(lambda observer: observer.changed(step, state, seconds, text))

    def _notify(self, event: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            try:
                event(observer)
            except Exception as error:  # an observer must not end the run
                log.warning("%s missed an event: %s", type(observer).__name__, error)

    def skip(self, step: Step) -> None:
        self.skipped.add(step.ref)
        self.changed(step, "skipped")

    def fail(self, step: Step, reason: str) -> None:
        reason = reason.removeprefix(f"{step.label}: ")  # workers say it, too
        self.failures[step.ref] = (step.label, reason)
        self.changed(step, "failed", text=reason)


class Batch:
    """Steps of one task run. A plain class, so Prefect passes it untouched."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.stage = steps[0].stage
        self.candidate = str(steps[0].hints.get("candidate") or "")
        self.label = steps[0].label
        if len(steps) > 1:
            parts = (self.stage, self.candidate, f"· {len(steps):,} found")
            self.label = " ".join(filter(None, parts))


def _perform(run: Run, batch: Batch) -> State[Any]:
    """Make one artefact, or find those of the batch. A failure is a state, not an exception: the
    others go on."""
    begin = time.perf_counter()
    if all(run.store.has(step.ref) for step in batch.steps):
        for step in batch.steps:
            run.changed(step, "cached")
        return Completed(name="Cached", message=listing(step.ref for step in batch.steps))
    (step,) = batch.steps
    if run.halted:
        run.skip(step)
        return Failed(message=f"not begun: {run.halted}")
    run.changed(step, "running")
    try:
        cached = _make(run, step)
    except Stopped as error:  # with the whole run, whose end says why
        run.skip(step)
        return Failed(message=str(error))
    except LensError as error:
        if isinstance(error, DiskFullError):  # every later artefact would be made in vain
            run.halted = str(error)
        run.fail(step, mask(str(error)))
        return Failed(message=mask(str(error)))
    except Exception as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        run.fail(step, mask(f"{type(error).__name__}: {error}"))
        return Failed(message=mask(f"{traceback.format_exc()}\n{notes}"))
    text = "" if cached else note(run.store, step)
    run.changed(step, "cached" if cached else "done", time.perf_counter() - begin, text)
    message = " · ".join(filter(None, [f"artefact {step.ref}", text]))
    return Completed(message=message, data=step.ref)


def _make(run: Run, step: Step) -> bool:
    """Make the artefact; True when another process made it meanwhile."""
    arguments = (run.store.root, step.recipe, dict(step.hints))
    if not step.in_worker:
        return make(*arguments)
    try:
        return run.workers.call(
            make,
            *arguments,
            timeout_seconds=step.timeout_seconds,
            label=step.label,
            memory_bytes=run.peak_bytes(step),
        )
    except WorkerError:
        if run.store.has(step.ref):  # the worker died when all was done
            return True
        raise


def _task(stage: str) -> Task[..., Any]:
    """The Prefect task of a stage. Prefect's own result cache stays off: the store is the cache."""
    decorate = task(
        name=stage,
        task_run_name="{batch.label}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return decorate(_perform)


def _report(done: queue.SimpleQueue[Batch], batch: Batch, _: PrefectFuture[Any]) -> None:
    done.put(batch)


def run_steps(
    run: Run, steps: Sequence[Step], earlier: Mapping[Ref, PrefectFuture[Any]]
) -> dict[Ref, PrefectFuture[Any]]:
    """Submit each step as soon as its upstream artefacts are there; return the futures.

    Must be called inside a flow. A step whose upstream failed is skipped. ``earlier`` are futures
    of earlier calls, so that the UI can draw the whole graph. Beside another command the order is
    random, so that both seldom want the same artefact. Raises ``LensError`` when the disk is full.
    """
    order = list(steps)
    if run.store.being_made():
        random.shuffle(order)
    waiting = {step.ref: step for step in order if step.ref not in earlier}
    run.planned(list(waiting.values()))
    tasks = {stage: _task(stage) for stage in {step.stage for step in steps}}
    futures = dict(earlier)
    finished = set(earlier)
    done: queue.SimpleQueue[Batch] = queue.SimpleQueue()
    pending = 0
    while waiting or pending:
        for batch in _batches(run.store, _ready(run, waiting, futures.keys() - finished)):
            upstream = {ref for step in batch.steps for ref in step.recipe.upstream.values()}
            # in a dict, since a batch is the future of several
            parents = list(dict.fromkeys(futures[ref] for ref in upstream if ref in futures))
            with tags(*filter(None, [batch.stage, batch.candidate])):
                future = tasks[batch.stage].submit(run, batch, wait_for=parents)
            futures |= dict.fromkeys((step.ref for step in batch.steps), future)
            future.add_done_callback(partial(_report, done, batch))
            pending += 1
        if pending:
            finished |= {step.ref for step in done.get().steps}
            pending -= 1
    if run.halted:
        raise LensError(run.halted)
    return futures


def _ready(run: Run, waiting: dict[Ref, Step], under_way: Set[Ref]) -> list[Step]:
    """Take from ``waiting`` the steps that can begin now, and skip those that never can."""
    ready = []
    for step in list(waiting.values()):
        needs = step.recipe.upstream.values()
        if any(map(run.is_lost, needs)):
            del waiting[step.ref]
            run.skip(step)
        elif not any(ref in waiting or ref in under_way for ref in (*needs, *step.after)):
            del waiting[step.ref]
            ready.append(step)
    return ready


def _batches(store: Store, steps: Sequence[Step]) -> list[Batch]:
    """Batches of the steps that the store has, by stage and candidate, and one of each other."""
    found, alone = defaultdict[tuple[str, str], list[Step]](list), list[Batch]()
    with ThreadPoolExecutor() as pool:  # to read all checksums of large files takes a while
        there = list(pool.map(store.has, [step.ref for step in steps]))
    for step, is_there in zip(steps, there, strict=True):
        batch = Batch([step])
        if is_there:
            found[batch.stage, batch.candidate].append(step)
        else:
            alone.append(batch)
    return [*map(Batch, found.values()), *alone]

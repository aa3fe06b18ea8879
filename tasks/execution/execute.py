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

from lensllm.core.errors import DiskFullError, LensError
from lensllm.core.secrets import mask
from lensllm.store.artifacts import Ref, Store
from lensllm.workers.local import Stopped, WorkerError, Workers
from lensllm.workers.ray_workers import RayWorkers
from tasks.base.step import Step
from tasks.planning.make import make, note

log = logging.getLogger("lensllm.run")

_MOST_NAMED = 20  # artefacts in the message of a task run


class Observer(Protocol):
    """Who wants to know how a run goes: the terminal, Prefect's artefacts, MLflow."""

    def planned(self, steps: Sequence[Step]) -> None: ...
    def started(self, step: Step) -> None: ...
    def finished(self, step: Step, seconds: float, *, cached: bool, note: str = "") -> None: ...
    def failed(self, step: Step, reason: str) -> None: ...
    def skipped(self, step: Step) -> None: ...


class Run:
    """What every task of one pipeline run shares. A plain class, so Prefect passes it untouched."""

    def __init__(
        self, store: Store, workers: Workers | RayWorkers, observers: Sequence[Observer]
    ) -> None:
        self.store = store
        self.workers = workers
        self.observers = observers
        self.peak_bytes: Callable[[Step], float | None] = lambda step: None  # as far as foreseen
        self.failures: dict[Ref, tuple[str, str]] = {}  # label and reason, in order of failing
        self.skipped: set[Ref] = set()  # for want of something that failed
        self.halted = ""  # why nothing more is begun

    def tell(self, event: str, *args: Any, **kwargs: Any) -> None:
        for observer in self.observers:
            try:
                getattr(observer, event)(*args, **kwargs)
            except Exception as error:  # whoever watches must not cost the run
                log.warning("%s could not be told '%s': %s", type(observer).__name__, event, error)

    def is_lost(self, ref: Ref) -> bool:
        """Whether this run will not make ``ref`` any more."""
        return ref in self.failures or ref in self.skipped

    def skip(self, step: Step) -> None:
        self.skipped.add(step.ref)
        self.tell("skipped", step)

    def fail(self, step: Step, reason: str) -> None:
        reason = reason.removeprefix(f"{step.label}: ")  # workers say it, too
        self.failures[step.ref] = (step.label, reason)
        self.tell("failed", step, reason)


class Batch:
    """Steps of one task run. A plain class, so Prefect passes it untouched."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    @property
    def stage(self) -> str:
        return self.steps[0].stage

    @property
    def candidate(self) -> str:
        return str(self.steps[0].hints.get("candidate") or "")

    @property
    def label(self) -> str:
        if len(self.steps) == 1:
            return self.steps[0].label
        return " ".join(filter(None, [self.stage, self.candidate, f"· {len(self.steps):,} found"]))

    @property
    def needs(self) -> set[Ref]:
        return {ref for step in self.steps for ref in step.recipe.upstream.values()}


def _perform(run: Run, batch: Batch) -> State[Any]:
    """Make one artefact, or find those of the batch. A failure is a state, not an exception: the
    others go on."""
    begin = time.perf_counter()
    if all(run.store.has(step.ref) for step in batch.steps):
        for step in batch.steps:
            run.tell("finished", step, 0.0, cached=True)
        refs = ", ".join(str(step.ref) for step in batch.steps[:_MOST_NAMED])
        more = len(batch.steps) - _MOST_NAMED
        return Completed(name="Cached", message=refs + (f" and {more:,} more" if more > 0 else ""))
    (step,) = batch.steps
    if run.halted:
        run.skip(step)
        return Failed(message=f"not begun: {run.halted}")
    run.tell("started", step)
    try:
        cached = _make(run, step)
    except DiskFullError as error:  # every later artefact would be made in vain
        run.halted = str(error)
        run.fail(step, str(error))
        return Failed(message=str(error))
    except Stopped as error:  # with the whole run, which says so
        run.skip(step)
        return Failed(message=str(error))
    except LensError as error:
        run.fail(step, mask(str(error)))
        return Failed(message=mask(str(error)))
    except Exception as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        run.fail(step, mask(f"{type(error).__name__}: {error}"))
        return Failed(message=mask(f"{traceback.format_exc()}\n{notes}"))
    said = "" if cached else note(run.store, step)
    run.tell("finished", step, time.perf_counter() - begin, cached=cached, note=said)
    return Completed(
        message=" · ".join(filter(None, [f"artefact {step.ref}", said])), data=step.ref
    )


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
        if run.store.has(step.ref):  # it died when all was done
            return True
        raise


def stage_task(stage: str) -> Task[..., Any]:
    """The Prefect task of a stage. Prefect's own result cache stays off: the store is the cache."""
    decorate = task(
        name=stage,
        task_run_name="{batch.label}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return decorate(_perform)


def run_steps(
    run: Run, steps: Sequence[Step], earlier: Mapping[Ref, PrefectFuture[Any]]
) -> dict[Ref, PrefectFuture[Any]]:
    """Submit each step as soon as what it is made of is there; return the futures.

    Must be called inside a flow. A step whose upstream failed is not submitted but
    skipped. ``earlier`` are futures of earlier calls, so that the UI can draw the whole graph.
    Beside another command steps come in an order of our own, so that both seldom want the same.
    Raises ``LensError`` when the disk is full.
    """
    order = list(steps)
    if run.store.being_made():
        random.shuffle(order)
    waiting = {step.ref: step for step in order if step.ref not in earlier}
    run.tell("planned", list(waiting.values()))
    tasks = {stage: stage_task(stage) for stage in {step.stage for step in steps}}
    futures = dict(earlier)
    finished = set(earlier)
    done: queue.SimpleQueue[Batch] = queue.SimpleQueue()
    pending = 0
    while waiting or pending:
        for batch in _batches(run.store, _ready(run, waiting, futures.keys() - finished)):
            # in a dict, since a batch is the future of several
            parents = list(dict.fromkeys(futures[ref] for ref in batch.needs if ref in futures))
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


def _report(done: queue.SimpleQueue[Batch], batch: Batch, _: PrefectFuture[Any]) -> None:
    done.put(batch)


def _ready(run: Run, waiting: dict[Ref, Step], under_way: Set[Ref]) -> list[Step]:
    """Take from ``waiting`` what can begin now, and skip what never can."""
    ready = []
    for step in list(waiting.values()):
        needs = step.recipe.upstream.values()
        if any(run.is_lost(ref) for ref in needs):
            del waiting[step.ref]
            run.skip(step)
        elif not any(ref in waiting or ref in under_way for ref in needs):
            del waiting[step.ref]
            ready.append(step)
    return ready


def _batches(store: Store, steps: Sequence[Step]) -> list[Batch]:
    """What the store has together, by stage and candidate; each other step by itself."""
    found, alone = defaultdict[tuple[str, str], list[Step]](list), list[Batch]()
    with ThreadPoolExecutor() as pool:  # to read all checksums of large files takes a while
        there = list(pool.map(store.has, [step.ref for step in steps]))
    for step, is_there in zip(steps, there, strict=True):
        if is_there:
            found[step.stage, Batch([step]).candidate].append(step)
        else:
            alone.append(Batch([step]))
    return [*map(Batch, found.values()), *alone]

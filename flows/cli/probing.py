"""``lensllm plan --probe``: measure the candidates' speed now, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape

from flows.running.slots import workers_for
from lensllm.store.artifacts import Store
from lensllm.workers.local import Workers
from lensllm.workers.ray_workers import RayWorkers
from tasks.base.plan import Plan
from tasks.base.step import Step
from tasks.planning.make import make, note

# Stages that run before a probe; the pretraining of embedded candidates takes minutes.
_FETCHED = ("download", "dequantise")


def measure(plan: Plan, console: Console) -> None:
    """Make the probes of ``plan`` that are not there, and the weights and tokens they need.

    Embedded candidates that are not pretrained yet are left out: ``lensllm run`` pretrains them.
    Raises ``LensError`` where a candidate cannot be probed.
    """
    store = plan.store
    absent = {name: step for name, step in plan["probe"].items() if not store.has(step.ref)}
    lacking = {
        m.name: [s for s in m.steps if not store.has(s.ref)]
        for m in plan.models
        if m.name in absent
    }
    waiting = [n for n, steps in lacking.items() if any(s.stage not in _FETCHED for s in steps)]
    if waiting:
        console.print(
            f"Not probed, because lensllm run pretrains them first: {escape(', '.join(waiting))}."
        )
    wanted = [step for name, step in absent.items() if name not in waiting]
    if not wanted:
        return
    fetched = {s.ref: s for name, steps in lacking.items() if name not in waiting for s in steps}
    workers = workers_for(plan.config.engine, store)
    try:
        with console.status("fetching the weights …"):
            _perform(workers, store, [*fetched.values()], console)
        with console.status("reading the data …"):
            for step in plan.with_dependencies(wanted):
                if step.stage in ("dataset", "sample", "tokens"):
                    make(store.root, step.recipe, step.hints)
        with console.status("probing …"):
            _perform(workers, store, wanted, console)
    except BaseException:
        workers.close(kill=True)
        raise
    workers.close()


def _perform(
    workers: Workers | RayWorkers, store: Store, steps: Sequence[Step], console: Console
) -> None:
    def perform(step: Step) -> Step:
        workers.call(
            make,
            store.root,
            step.recipe,
            dict(step.hints),
            timeout_seconds=step.timeout_seconds,
            label=step.label,
        )
        return step

    with ThreadPoolExecutor(max(len(steps), 1)) as threads:  # the workers' slots are the limit
        for step in threads.map(perform, steps):
            if found := note(store, step):
                console.print(f"{step.label}: {found}", soft_wrap=True)

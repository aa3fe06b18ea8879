"""``lensllm plan --probe``: measure the candidates' pace now, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape

from flows.slots import workers_for
from lensllm.ray_workers import RayWorkers
from lensllm.store import Store
from lensllm.workers import Workers
from tasks.plan import Plan
from tasks.stage import Step, make, remark


def measure(plan: Plan, store: Store, console: Console) -> None:
    """Make the probes of ``plan`` that are not there, and the samples and tokens they need.

    Embedded candidates that are not pretrained yet are left out: ``lensllm run`` pretrains them.
    Raises ``LensError`` where a candidate cannot be probed.
    """
    absent = {name: step for name, step in plan.probes.items() if not store.has(step.ref)}
    waiting = [
        m.name
        for m in plan.models
        if m.name in absent and not all(store.has(s.ref) for s in m.steps)
    ]
    if waiting:
        console.print(
            f"Not probed, because lensllm run pretrains them first: {escape(', '.join(waiting))}."
        )
    wanted = [step for name, step in absent.items() if name not in waiting]
    if not wanted:
        return
    needs = {ref for step in wanted for ref in step.recipe.upstream.values()}
    with console.status("reading the data …"):
        for step in (plan.dataset, *plan.samples, *plan.tokens.values()):
            if step is plan.dataset or step.ref in needs:
                make(store.root, step.recipe, step.hints)
    workers = workers_for(plan.config.engine, store)
    try:
        with console.status("probing …"):
            _probe(workers, store, wanted, console)
    except BaseException:
        workers.close(kill=True)
        raise
    workers.close()


def _probe(
    workers: Workers | RayWorkers, store: Store, wanted: Sequence[Step], console: Console
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

    with ThreadPoolExecutor(len(wanted)) as threads:  # the workers' slots are the limit
        for step in threads.map(perform, wanted):
            console.print(f"{step.label}: {remark(store, step)}", soft_wrap=True)

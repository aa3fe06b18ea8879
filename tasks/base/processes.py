"""A build on several processes: this worker is the first rank and starts the others.

``python -P -m tasks.base.processes`` is such a rank. It reads its job from standard input, runs the
same function as the first rank, and writes to standard output why it could not.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.core.errors import LensError, ModelError
from lensllm.core.processes import die_with_parent
from lensllm.store.artifacts import Ref, Store
from tasks.base.step import BuildContext

if TYPE_CHECKING:
    from lensllm.training.ranks import Ranks

# A rank that has lost the others may still be waiting for them.
_LAST_WORDS_SECONDS = 10


def run(context: BuildContext, function: Callable[[BuildContext, Ranks], None]) -> None:
    """``function(context, ranks)`` here and in the other processes that ``context`` asks for."""
    from lensllm.models import load
    from lensllm.training import memory
    from lensllm.training.ranks import ALONE, joined

    size, device = context.hints["processes"], load.choose_device(context.hints["device"])
    with memory.limited(context.hints["memory_gib"], device):
        if size == 1:
            function(context, ALONE)
            return
        _check_devices(size, device.type)
        with tempfile.TemporaryDirectory(prefix="lensllm-ranks-") as folder:
            meeting = Path(folder) / "meeting"
            with (
                _others(context, function, size, meeting),
                joined(0, size, meeting, device) as ranks,
            ):
                function(context, ranks)


def _check_devices(size: int, kind: str) -> None:
    import torch

    if kind == "cuda" and torch.cuda.device_count() < size:
        raise ModelError(
            f"engine.processes: {size} processes need a GPU each and a slot has "
            f"{torch.cuda.device_count()}; lower it, or engine.slots"
        )
    if kind == "mps":
        raise ModelError("engine.processes: several processes run on cuda or cpu, not on mps")


@contextmanager
def _others(
    context: BuildContext, function: Callable[[BuildContext, Ranks], None], size: int, meeting: Path
) -> Iterator[None]:
    """The other ranks, for as long as this one works; none survives it."""
    processes = []
    try:
        for rank in range(1, size):
            job = {
                "function": [function.__module__, function.__name__],
                "root": str(context.store.root),
                "params": context.params,
                "upstream": {role: [ref.stage, ref.key] for role, ref in context.upstream.items()},
                "hints": context.hints,
                "ref": [context.ref.stage, context.ref.key],
                "rank": rank,
                "size": size,
                "meeting": str(meeting),
                "parent": os.getpid(),
            }
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tasks.base.processes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(job, default=dict))
            process.stdin.close()
        yield
    except LensError:
        raise
    except Exception as error:  # mostly that another rank is gone: let it say why
        for process in processes:
            if said := _last_words(process):
                raise ModelError(said) from error
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _last_words(process: subprocess.Popen[str]) -> str:
    try:
        process.wait(_LAST_WORDS_SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    assert process.stdout is not None
    return process.stdout.read().strip()


def main() -> None:
    """Be one of the other ranks."""
    job: dict[str, Any] = json.load(sys.stdin)
    die_with_parent(job["parent"])
    import torch

    from lensllm.models import load
    from lensllm.training import memory
    from lensllm.training.ranks import joined

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    context = BuildContext(
        Store(Path(job["root"])),
        job["params"],
        {role: Ref(*ref) for role, ref in job["upstream"].items()},
        job["hints"],
        Path(os.devnull),  # the first rank writes
        Ref(*job["ref"]),
    )
    context = replace(context, hints={**context.hints, "keep_delta": False})
    module, name = job["function"]
    function = getattr(importlib.import_module(module), name)
    device = load.choose_device(context.hints["device"])
    try:
        with (
            memory.limited(context.hints["memory_gib"], device),
            joined(job["rank"], job["size"], Path(job["meeting"]), device) as ranks,
        ):
            function(context, ranks)
    except LensError as error:
        print(error, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

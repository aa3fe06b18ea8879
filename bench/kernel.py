"""The residual kernel in multiples of one batched forward and backward over the same probes."""

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from bench import kernel_models
from bench.kernel_process import Process, closing
from bench.kernel_ways import HOLD_GRADIENTS, WAYS, Found
from bench.timing import markdown
from lensllm.models.load import choose_device, count_parameters, from_config, load_config

COUNTS = (64, 256, 1024)
COMPARED = ("sketch", "vmap", "loop")
# Rounds go on for this long, and at most this often.
ROUNDS_SECONDS, ROUNDS = 12.0, 5
# A pass that takes longer is left out, unless it is a model's first: some ten times as long goes by
# until every way has run.
PASS_SECONDS = 60.0


@dataclass
class Measured:
    """One way, with one model and number of probes."""

    skipped: str = ""
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0
    found: Found = field(default_factory=Found)


def table() -> str:
    with tempfile.TemporaryDirectory() as folder:
        names = kernel_models.prepare(Path(folder), max(COUNTS))
        return tables(Path(folder), names)


def tables(folder: Path, names: list[str]) -> str:
    costs, errors = [], []
    for name in names:
        per_probe = 0.0
        for count in COUNTS:
            if per_probe * count > PASS_SECONDS:
                why = f"not run: a pass of {per_probe * count:.0f} s"
                costs.append([name, str(count), why, *([""] * (len(WAYS) - 1))])
                continue
            results = measure(folder / name, count)
            per_probe = statistics.median(results["one pass"].seconds) / count
            costs.append([name, str(count), *_costs(results)])
            errors.append([name, str(count), *_errors(results)])
    device = choose_device("auto").type
    return markdown(
        f"Residual kernel, device {device}: time / peak memory, in multiples of one pass",
        ["model", "probes", *WAYS],
        costs,
    ) + markdown(
        "Residual kernel: relative Frobenius error against the exact one",
        ["model", "probes", "participation ratio", *COMPARED, "auto chose", "because"],
        errors,
    )


def measure(folder: Path, count: int) -> dict[str, Measured]:
    """Every way in turn, in rounds, so that drift of the machine hits all alike."""
    results = {way: Measured(_too_large(folder, way, count)) for way in WAYS}
    run = [way for way, result in results.items() if not result.skipped]
    processes = {way: Process(way, folder, count) for way in run}
    with closing(processes):
        spent = 0.0
        for _ in range(ROUNDS):
            for way in run:
                seconds, held, found = processes[way].run()
                result = results[way]
                result.seconds.append(seconds)
                result.bytes = result.bytes or held  # later runs find memory that is not given back
                result.found = found
                spent += seconds * found.share
            if spent > ROUNDS_SECONDS:
                break
    return results


def _too_large(folder: Path, way: str, count: int) -> str:
    """Why it is not run: its gradients would take more than half of the free memory."""
    if way not in HOLD_GRADIENTS:
        return ""
    with torch.device("meta"):
        weights = count_parameters(from_config(load_config(folder)))
    wanted = 4 * weights * count
    free = psutil.virtual_memory().available
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    return f"not run: {wanted / 1e9:.0f} GB" if wanted > free / 2 else ""


def _costs(results: dict[str, Measured]) -> Iterator[str]:
    base = results["one pass"]
    seconds = statistics.median(base.seconds)
    for result in results.values():
        if result is base:
            yield f"{seconds:.2f} s / {base.bytes / 1e6:,.0f} MB"
        elif result.skipped:
            yield result.skipped
        else:
            times = statistics.median(result.seconds) / seconds
            yield f"{times:.{0 if times > 20 else 2}f} / {result.bytes / base.bytes:.2f}"


def _errors(results: dict[str, Measured]) -> Iterator[str]:
    norms = results["exact"].found.norms
    exact = _kernel(results["exact"], norms)
    eigenvalues = np.linalg.eigvalsh(exact)
    yield f"{eigenvalues.sum() ** 2 / (eigenvalues**2).sum():.1f}"
    for result in (results[way] for way in COMPARED):
        if result.skipped:
            yield "–"
        else:
            error = np.linalg.norm(_kernel(result, norms) - exact) / np.linalg.norm(exact)
            yield f"{error:.2g}"
    yield from (results["auto"].found.method, results["auto"].found.reason)


def _kernel(result: Measured, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    return result.found.gram / np.outer(norms, norms)

"""The curvature of a cell in multiples of one training epoch on the smallest subset."""

import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers.utils import logging

from bench import kernel_models
from bench.kernel_models import read_probes
from bench.timing import markdown
from lensllm.config.sections import Curvature, FineTune
from lensllm.core.meter import Meter
from lensllm.hessian.curvature import layers_of, measure_curvature, rademacher, traces
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.lanczos import Product, inner, positive_quadratic
from lensllm.models import delta
from lensllm.models.batch import Example
from lensllm.models.load import load_model
from lensllm.training.loop import fine_tune

SMALLEST = 100  # the default of a sweep
ROUNDS = 3
TRUTH_STEPS = 48  # of Lanczos from v, behind what counts as true
SPECTRUM_STEPS = 48  # at most, of Lanczos from a random start
PROBES = 100  # of Hutchinson's estimate, as PyHessian has it (Yao et al. 2020)
MODELS = tuple(kernel_models.TRAINED)  # SmolLM2 would take an hour
CPU, FLOAT = torch.device("cpu"), torch.float32
DEFAULTS = Curvature()


@dataclass
class Cell:
    """A fine-tuned model, how far it moved, and what on."""

    model: Any
    moved: dict[str, Tensor]
    examples: list[Example]

    @property
    def averaged(self) -> list[Example]:
        return self.examples[: DEFAULTS.mean_examples]

    def hessian(self) -> BlockHessian:
        return BlockHessian(self.model, layers_of(self.model), self.averaged)


def epoch(cell: Cell) -> None:
    """The unit: one pass over the smallest subset, without validation."""
    fine_tune(cell.model, cell.examples, cell.examples[:1], FineTune(epochs=1), seed=0,
              device=CPU, dtype=FLOAT)  # fmt: skip


def diagnostics(cell: Cell, *, density: bool = False) -> None:
    measure_curvature(
        cell.model, cell.moved, cell.examples[: DEFAULTS.examples],
        mean_examples=DEFAULTS.mean_examples, tolerance=DEFAULTS.tolerance,
        lanczos_steps=DEFAULTS.lanczos_steps, trace_vectors=DEFAULTS.trace_probes, density=density,
    )  # fmt: skip


def with_density(cell: Cell) -> None:
    diagnostics(cell, density=True)


def hutchinson(cell: Cell) -> None:
    """The traces alone, from a fixed number of probes."""
    with double_differentiable(cell.model):
        traces(cell.hessian(), cell.moved, PROBES, seed=0)


def whole_spectrum(cell: Cell) -> None:
    """vᵀH⁺v of every layer from the Ritz pairs of a random start: its products alone."""
    with double_differentiable(cell.model):
        from_spectrum(cell.hessian(), cell.moved, SPECTRUM_STEPS)


WAYS: Mapping[str, Callable[[Cell], None]] = {
    "one epoch": epoch,
    "diagnostics": diagnostics,
    "with density": with_density,
    f"Hutchinson, {PROBES} probes": hutchinson,
    f"whole spectrum, {SPECTRUM_STEPS} steps": whole_spectrum,
}


def table() -> str:
    with tempfile.TemporaryDirectory() as folder:
        kernel_models.prepare(Path(folder), SMALLEST)
        costs, errors = [], []
        for name in MODELS:
            _tune(Path(folder) / name)
            costs.append([name, *_costs(Path(folder) / name)])
            errors += [[name, *row] for row in _errors(_cell(Path(folder) / name))]
    return markdown(
        "Curvature of a cell: time / peak memory, in multiples of an epoch's",
        ["model", *WAYS],
        costs,
    ) + markdown(
        "Curvature of a cell: errors, as shares of vᵀ|H|v and of the trace",
        ["model", "layer", "vᵀH⁺v: error", "as stated", "whole spectrum: steps to that error",
         f"trace: s.e., {DEFAULTS.trace_probes} probes", f"{PROBES} probes"],
        errors,
    )  # fmt: skip


def from_spectrum(
    product: Product, vectors: Mapping[str, Tensor], steps: int
) -> dict[str, list[float]]:
    """vᵀH⁺v of every layer after 1, 2, … steps of Lanczos from random signs: Σ max(θ, 0) ⟨y, v⟩².

    With full reorthogonalisation; θ, y are Ritz values and vectors.
    """
    basis = {n: [rademacher(v, 0, "spectrum", n) / len(v) ** 0.5] for n, v in vectors.items()}
    diagonal: dict[str, list[float]] = {n: [] for n in vectors}
    off: dict[str, list[float]] = {n: [] for n in vectors}
    found: dict[str, list[float]] = {n: [] for n in vectors}
    for _ in range(steps):
        images = product({n: vectors_of[-1] for n, vectors_of in basis.items()})
        for n, image in images.items():
            span = torch.stack(basis[n])
            diagonal[n].append(inner(image, basis[n][-1]))
            for _ in range(2):
                image = image - span.T @ (span @ image)
            matrix = np.diag(diagonal[n]) + np.diag(off[n], 1) + np.diag(off[n], -1)
            nodes, ritz = np.linalg.eigh(matrix)
            along = ritz.T @ (span @ vectors[n]).double().numpy()
            found[n].append(float(np.maximum(nodes, 0) @ along**2))
            off[n].append(inner(image, image) ** 0.5)
            basis[n].append(image / max(off[n][-1], 1e-30))
    return found


def _tune(folder: Path) -> None:
    """Fine-tune on the smallest subset and keep the difference."""
    model, pretrained = load_model(folder), load_model(folder)
    examples = read_probes(folder, SMALLEST)
    fine_tune(model, examples, examples, FineTune(), seed=0, device=CPU, dtype=FLOAT)
    delta.save(model, pretrained, folder / "delta.safetensors")


def _cell(folder: Path) -> Cell:
    model = load_model(folder)
    moved = delta.apply(model, folder / "delta.safetensors", layers_of(model))
    return Cell(model, moved, read_probes(folder, SMALLEST))


def _costs(folder: Path) -> list[str]:
    """Each way in a process of its own, where its peak memory is its own."""
    context, results = get_context("forkserver"), {}
    for way in WAYS:
        with context.Pool(1) as pool:
            results[way] = pool.apply(_measured, (way, folder))
    seconds, held = results["one epoch"]
    first = f"{seconds:.2f} s / {held / 1e6:,.0f} MB"
    others = [r for way, r in results.items() if way != "one epoch"]
    return [first, *(f"{s / seconds:.2f} / {m / held:.2f}" for s, m in others)]


def _measured(way: str, folder: Path) -> tuple[float, int]:
    """Median of the processor seconds, and the bytes of the first run: what it takes, the model
    and, unless it trains, the distance that it moved."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with threadpool_limits(1):
        cell = _cell(folder)
        cell.model(input_ids=torch.zeros(1, 2, dtype=torch.long)).logits.sum().backward()
        cell.model.zero_grad()
        seconds, held = [], 0
        for _ in range(ROUNDS):
            gc.collect()
            with suppress(OSError, AttributeError):  # glibc keeps freed memory
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            meter = Meter(CPU)
            before, begin = meter.peak_memory_bytes(), time.process_time()
            WAYS[way](cell)
            seconds.append(time.process_time() - begin)
            held = held or meter.peak_memory_bytes() - before
    weights = sum(p.nbytes for p in cell.model.parameters())
    distance = 0 if way == "one epoch" else sum(v.nbytes for v in cell.moved.values())
    return statistics.median(seconds), held + weights + distance


def _errors(cell: Cell) -> list[list[str]]:
    """By layer, how far the default is off, what it says, and what others take to be as good."""
    with double_differentiable(cell.model):
        hessian = cell.hessian()
        true = positive_quadratic(hessian, cell.moved, TRUTH_STEPS, tolerance=0.0)
        ours = positive_quadratic(
            hessian, cell.moved, DEFAULTS.lanczos_steps, tolerance=DEFAULTS.tolerance
        )
        spectrum = from_spectrum(hessian, cell.moved, SPECTRUM_STEPS)
        few, many = (
            traces(hessian, cell.moved, count, seed=0) for count in (DEFAULTS.trace_probes, PROBES)
        )
    rows = []
    for layer, form in ours.items():
        size = true[layer].positive + true[layer].negative
        error = abs(form.positive - true[layer].positive) / size
        near = [abs(v - true[layer].positive) / size <= error for v in spectrum[layer]]
        steps = f"{near.index(True) + 1}" if any(near) else f"more than {SPECTRUM_STEPS}"
        traced = [f"{t.stderr / abs(many[layer].value):.2g}" for t in (few[layer], many[layer])]
        rows.append([layer, f"{error:.2g}", f"{form.error / size:.2g}", steps, *traced])
    return rows

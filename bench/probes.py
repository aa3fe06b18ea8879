"""How well do the probes determine what is read off a kernel? The standard error of φ against the
truth, and the overlap by estimator, by n and by text, on embedded candidates in ``artifacts``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from transformers.utils import logging

from bench.timing import markdown
from lensllm.config import configfile
from lensllm.core.errors import DataError, LensError
from lensllm.core.seeds import generator
from lensllm.data.tokens import select, windows
from lensllm.models.load import load_model, load_tokenizer
from lensllm.ntk import residual_kernel
from lensllm.ntk.overlap import Array, Indices, Overlap, alignment
from lensllm.spectra.spectrum import by_probes, spectrum
from lensllm.store.artifacts import Store
from tasks.base.plan import Plan
from tasks.base.training import split_rows
from tasks.planning.plan import make_plan
from tasks.stages import pretext

ARTIFACTS, PIPELINE = Path("artifacts"), "docstrings"
MODELS = ("gpt2-nano-code", "gpt2-nano-docs", "neo-micro-topics", "t5-mini-docs")
PROBES, COUNTS = 1024, (32, 64, 128)
CUTS, RESAMPLES = 10, 50
TIMES = np.array([0.03, 0.06, 0.3, 1, 3])
# What an overlap compares, and of how many such draws the best estimate is made. Each window of a
# draw is from a text of its own; there are too few texts for larger draws.
WINDOWS, DRAWS = 64, 6


@dataclass(frozen=True, eq=False)
class Probed:
    """One kernel over ``PROBES`` examples, ``DRAWS`` draws of windows of the model's own
    pretraining mix, and one of each kind of text."""

    matrix: Array
    norms: Array
    kinds: tuple[str, ...]

    def share(self, probes: Indices) -> Array:
        """φ at ``TIMES`` from these probes."""
        return spectrum(self.matrix[np.ix_(probes, probes)], self.norms[probes]).share(TIMES)

    def overlap(self, ours: Indices, theirs: Indices) -> Overlap:
        both = np.concatenate([ours, theirs])
        return alignment(self.matrix[np.ix_(both, both)], self.norms[both], len(ours))

    def plugged_in(self, ours: Indices, theirs: Indices) -> float:
        """The alignment by its formula, each probe being aligned with itself."""
        gram = self.matrix * np.outer(self.norms, self.norms)

        def norm(rows: Indices, columns: Indices) -> float:
            block = gram[np.ix_(rows, columns)]
            centred = block - block.mean(0) - block.mean(1)[:, None] + block.mean()
            return float(np.linalg.norm(centred))

        return norm(ours, theirs) ** 2 / (norm(ours, ours) * norm(theirs, theirs))


def probed(name: str, plan: Plan, store: Store) -> Probed:
    """Raises DataError when the pipeline has not finished."""
    model = next(model for model in plan.models if model.name == name)
    needed = [plan.samples[0].ref, plan["tokens"][name].ref, *(step.ref for step in model.steps)]
    if not all(map(store.has, needed)):
        run = f"`lensllm run {PIPELINE}`"
        raise DataError(f"Pipeline {PIPELINE} has not finished in {store.root}/: {run}.")
    rows = split_rows(store, plan["sample"][0].ref, "train")[:PROBES]
    probes = select(store.table(plan["tokens"][name].ref, "examples"), rows)
    frame = store.table(pretext.step().ref, "texts")
    texts = {str(kind): found.tolist() for kind, found in frame.groupby("kind")["text"]}
    tokenizer = load_tokenizer(model.tokenizer_folder)
    length = int(np.median([len(probe) for probe in probes]))
    mixes = [model.specification.mix] * DRAWS + [{kind: 1.0} for kind in texts]
    for seed, mix in enumerate(mixes):
        probes += windows(texts, mix, tokenizer, length, WINDOWS, seed)
    kernel = residual_kernel(load_model(model.folder), probes)
    return Probed(kernel.matrix, kernel.residual_norms, tuple(texts))


def cuts(total: int, count: int, times: int) -> Indices:
    """(times, sets, count): ``total`` probes cut into disjoint sets, again and again."""
    random = generator(0, "cuts", total, count)
    return np.array([random.permutation(total).reshape(-1, count) for _ in range(times)])


@cache
def shares(model: Probed, count: int) -> Array:
    """(cuts, sets, times): φ from disjoint sets of ``count`` probes."""
    return np.array([[model.share(s) for s in cut] for cut in cuts(PROBES, count, CUTS)])


def resampled(model: Probed, draw: Callable[[], Indices]) -> tuple[Array, Array]:
    """Error of φ by resampling (root mean square over sets), and the mean φ less the sets'."""
    squares, moved = [], []
    for probes in cuts(PROBES, WINDOWS, 1)[0]:
        found = np.array([model.share(probes[draw()]) for _ in range(RESAMPLES)])
        squares.append(found.var(0, ddof=1))
        moved.append(found.mean(0) - model.share(probes))
    return np.sqrt(np.mean(squares, axis=0)), np.mean(moved, axis=0)


def errors(model: Probed) -> dict[str, Array]:
    """By row of the table of errors, at ``TIMES``; the truth is unbiased within each cut."""
    n, random = WINDOWS, generator(0, "resampling")
    least, *_, most = COUNTS
    risen = shares(model, most).mean((0, 1)) - shares(model, least).mean((0, 1))
    true = {k: np.sqrt(shares(model, k).var(axis=1, ddof=1).mean(0)) for k in COUNTS}
    kernel, norms = model.matrix[:PROBES, :PROBES], model.norms[:PROBES]
    jackknife = dict(zip(COUNTS, by_probes(kernel, norms, COUNTS, TIMES)[1], strict=True))
    bootstrap, moved = resampled(model, lambda: random.integers(0, n, n))
    halves, _ = resampled(model, lambda: random.permutation(n)[: n // 2])
    return {
        "φ": shares(model, n).mean((0, 1)),
        "its standard deviation": true[n],
        **{f"jackknife, n = {k}, its error over that": jackknife[k] / true[k] for k in COUNTS},
        "bootstrap": bootstrap / true[n],
        "halves of the probes": halves / true[n],
        "bootstrap's mean φ less φ, in standard deviations": moved / true[n],
        f"φ of {most} less φ of {least} probes, in standard deviations": risen / true[n],
    }


def cells(values: Array, digits: int) -> list[str]:
    """Median and range over the rows, of each column."""
    number = f".{digits}f"
    return [f"{np.median(c):{number}} ({c.min():{number}} to {c.max():{number}})" for c in values.T]


def of_errors(models: Sequence[Probed]) -> str:
    found, rows = [errors(model) for model in models], []
    for label in found[0]:
        digits = 3 if label in ("φ", "its standard deviation") else 2
        rows.append([label, *cells(np.array([each[label] for each in found]), digits)])
    deviations = [shares(model, WINDOWS) for model in models]
    deviations = [(d - d.mean(1, keepdims=True)).reshape(-1, len(TIMES)) for d in deviations]
    pairs, by_time = np.triu_indices(len(models), 1), np.transpose(deviations, (2, 0, 1))
    alike = [np.corrcoef(found)[pairs] for found in by_time]
    rows.append(["correlation between two models", *cells(np.transpose(alike), 2)])
    title = f"φ from {WINDOWS} of {PROBES:,} probes: median of {len(models)} models (range)"
    return markdown(title, ["", *(f"t = {t:g}" for t in TIMES)], rows)


def of_estimates(models: Sequence[Probed]) -> str:
    """The alignment with the model's own pretraining text, from sets of n of each."""
    rows, half, most = [], WINDOWS // 2, WINDOWS * DRAWS
    ours, theirs = np.arange(most), PROBES + np.arange(most)
    for name, model in zip(MODELS, models, strict=True):
        sets = {n: cuts(most, n, 3).reshape(-1, n) for n in (half, WINDOWS)}
        found = {n: [model.overlap(ours[s], theirs[s]) for s in sets[n]] for n in sets}
        values = {n: [each.alignment for each in found[n]] for n in sets}
        jackknife = [each.alignment_standard_error for each in found[WINDOWS]]
        plugged_in = [model.plugged_in(ours[s], theirs[s]) for s in sets[WINDOWS]]
        rows.append([
            name,
            f"{np.mean(plugged_in):.2f}",
            f"{model.plugged_in(ours, theirs):.2f}",
            *(f"{np.nanmean(values[n]):.2f} ± {np.nanstd(values[n], ddof=1):.2f}" for n in sets),
            f"{model.overlap(ours, theirs).alignment:.2f}",
            f"{np.sqrt(np.nanmean(np.square(jackknife))):.2f}",
        ])  # fmt: skip
    columns = ["", f"plugged in, n = {WINDOWS}", f"n = {most}", f"without bias, n = {half}",
               f"n = {WINDOWS}", f"n = {most}", f"jackknife, n = {WINDOWS}"]  # fmt: skip
    return markdown("Alignment with the own pretraining text, by estimator", columns, rows)


def of_texts(models: Sequence[Probed]) -> str:
    """The overlap of the first examples with other texts."""
    rows, first = [], np.arange(WINDOWS)
    for name, model in zip(MODELS, models, strict=True):
        kinds = range(PROBES + DRAWS * WINDOWS, len(model.norms), WINDOWS)
        found = [model.overlap(first, start + first) for start in (WINDOWS, PROBES, *kinds)]
        rows.append([
            name,
            *(f"{each.alignment:.2f} ± {each.alignment_standard_error:.2f}" for each in found),
            f"{found[1].mean_gradient_cosine:.2f} ± "
            f"{found[1].mean_gradient_cosine_standard_error:.2f}",
        ])  # fmt: skip
    columns = ["", "more examples", "own text", *models[0].kinds, "cosine of means, own text"]
    title = f"Alignment of {WINDOWS} examples with as many of other texts, ± jackknife"
    return markdown(title, columns, rows)


def table() -> str:
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    store = Store(ARTIFACTS)
    try:
        plan = make_plan(configfile.load(Path("pipelines.yaml"), PIPELINE), store)
        models = [probed(name, plan, store) for name in MODELS]
    except LensError as error:
        return str(error)
    return "\n".join(part(models) for part in (of_errors, of_estimates, of_texts))

"""The overlap against sums over explicit gradients, its invariances, and its errors."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from lensllm.core import seeds
from lensllm.models.batch import Example, collate, token_losses
from lensllm.ntk import residual_kernel
from lensllm.ntk.overlap import Overlap, alignment

some_seed = st.integers(0, 2**32 - 1)


def gradients(seed: int, count: int, width: int, mean: float = 1.0) -> np.ndarray:
    """Of unlike size in unlike directions, (count, width), about a mean that is not zero."""
    draw = np.random.default_rng(seed)
    return mean + draw.standard_normal((count, width)) * np.arange(1, width + 1) ** -0.7


def overlap(ours: np.ndarray, theirs: np.ndarray) -> Overlap:
    both = np.concatenate([ours, theirs])
    norms = 0.5 + np.arange(len(both)) / len(both)  # any: they cancel
    return alignment(both @ both.T / np.outer(norms, norms), norms, len(ours))


def values(found: Overlap) -> list[float]:
    return list(vars(found).values())


def brute_force(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Alignment and cosine by the definitions, over all tuples of different probes."""

    def four(g: np.ndarray) -> float:
        return np.mean(
            [
                ((g[i] - g[j]) @ (g[k] - g[m])) ** 2 / 4
                for i, j, k, m in permutations(range(len(g)), 4)
            ]
        )

    def two(g: np.ndarray) -> float:
        return np.mean([g[i] @ g[j] for i, j in permutations(range(len(g)), 2)])

    pairs = product(permutations(range(len(ours)), 2), permutations(range(len(theirs)), 2))
    shared = np.mean(
        [((ours[i] - ours[j]) @ (theirs[k] - theirs[m])) ** 2 / 4 for (i, j), (k, m) in pairs]
    )
    return (
        shared / np.sqrt(four(ours) * four(theirs)),
        np.mean(ours @ theirs.T) / np.sqrt(two(ours) * two(theirs)),
    )


@given(some_seed)
@settings(max_examples=10)
def test_against_all_tuples_of_different_probes(seed: int):
    ours, theirs = gradients(seed, 7, 30), gradients(seed + 1, 6, 30)
    expected = np.clip(brute_force(ours, theirs), (0, -1), 1)
    found = overlap(ours, theirs)
    for value, error, wanted in zip(values(found)[::2], values(found)[1::2], expected, strict=True):
        assert value == pytest.approx(wanted) or (np.isnan(value) and np.isnan(error))


def test_against_the_gradients_of_a_model():
    """Per-probe gradients by autograd, held in full."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval()
    draw = np.random.default_rng(0)
    sets = [
        [Example(*draw.integers(low, 40, (2, 5)).tolist()) for _ in range(8)] for low in (0, 25)
    ]

    def gradient(probe: Example) -> np.ndarray:
        model.zero_grad()
        token_losses(model, collate([probe], config)).mean().backward()
        return np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])

    kernel = residual_kernel(model, [*sets[0], *sets[1]], method="exact")
    found = alignment(kernel.matrix, kernel.residual_norms, 8)
    expected = overlap(*(np.array([gradient(probe) for probe in probes]) for probes in sets))
    assert 0 < expected.alignment < 1
    assert values(expected) == pytest.approx(values(found), rel=1e-6, nan_ok=True)


@given(some_seed, st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=25)
def test_scale_order_and_rotation_do_not_matter(seed: int, scale: float, other: float):
    draw = np.random.default_rng(seed)
    ours, theirs = gradients(seed, 12, 20), gradients(seed + 1, 9, 20)
    rotation = np.linalg.qr(draw.standard_normal((20, 20)))[0]
    moved = overlap(
        scale * draw.permutation(ours) @ rotation, other * draw.permutation(theirs) @ rotation
    )
    plain = overlap(ours, theirs)
    assert values(plain) == pytest.approx(values(moved), rel=1e-6, nan_ok=True)
    turned = overlap(theirs, ours)
    assert values(plain) == pytest.approx(values(turned), rel=1e-6, nan_ok=True)


def test_a_shift_of_one_set_leaves_the_alignment():
    ours, theirs = gradients(0, 12, 20), gradients(1, 12, 20)
    before, after = overlap(ours, theirs), overlap(ours, theirs - 3.0)
    assert before.alignment == pytest.approx(after.alignment)
    assert before.mean_gradient_cosine > 0.9
    assert after.mean_gradient_cosine < -0.9


def test_the_same_set_twice_is_aligned():
    ours = gradients(0, 32, 40)
    found = overlap(ours, ours)
    assert (found.alignment, found.mean_gradient_cosine) == (1.0, 1.0)


def test_sets_in_orthogonal_spaces_have_nothing_in_common():
    ours, theirs = gradients(0, 12, 15), gradients(1, 12, 15)
    nothing = np.zeros_like(ours)
    found = overlap(np.hstack([ours, nothing]), np.hstack([nothing, theirs]))
    assert pytest.approx([0.0] * 4, abs=1e-12) == values(found)


def known(angle: float, width: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Square roots of two covariances of ``width`` dimensions, most of whose directions are alike
    small, and which share more the smaller the angle between their ten large ones is."""
    scales = np.where(np.arange(width) < 10, 4.0, 1.0)
    turn = np.eye(width)
    for i in range(10):
        j = i + 10
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = np.sin(angle), -np.sin(angle)
    return np.diag(scales), scales[:, None] * turn


def plugged_in(ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    norms = np.linalg.norm(ours @ ours.T) * np.linalg.norm(theirs @ theirs.T)
    return float(np.linalg.norm(ours @ theirs.T) ** 2 / norms)


@pytest.mark.parametrize("angle", [0.0, 0.8])
def test_few_probes_in_many_dimensions_are_not_biased_and_errors_cover(angle: float):
    """Where plugging in is: a probe is always aligned with itself."""
    roots = known(angle)
    covariances = [root.T @ root for root in roots]
    squares = [np.linalg.norm(c) for c in covariances]
    truth = float((covariances[0] * covariances[1]).sum() / np.prod(squares))
    draw = seeds.generator(0, "overlap-test")
    found, naive = [], []
    for _ in range(40):
        ours, theirs = (draw.standard_normal((32, 300)) @ root for root in roots)
        found.append(overlap(ours, theirs))
        naive.append(plugged_in(ours, theirs))
    estimates = np.array([f.alignment for f in found])
    errors = np.array([f.alignment_standard_error for f in found])
    assert np.mean(naive) < 0.6 * truth
    assert abs(estimates.mean() - truth) < 0.1 * truth
    assert np.mean(abs(estimates - truth) < 2 * errors) > 0.9
    assert np.sqrt(np.mean(errors**2)) < 3 * max(estimates.std(), 0.05)


@pytest.mark.parametrize(("ours", "theirs"), [(4, 8), (8, 4), (3, 3)])
def test_too_few_probes_for_an_error_have_no_alignment(ours: int, theirs: int):
    found = overlap(gradients(0, ours, 5), gradients(1, theirs, 5))
    assert np.isnan([found.alignment, found.alignment_standard_error]).all()
    assert np.isfinite(
        [found.mean_gradient_cosine, found.mean_gradient_cosine_standard_error]
    ).all()


@given(some_seed)
@settings(max_examples=20)
def test_a_mean_that_is_zero_gives_no_cosine_or_one_with_a_large_error(seed: int):
    found = overlap(gradients(seed, 12, 400, mean=0.0), gradients(seed + 1, 12, 400, mean=0.0))
    error = found.mean_gradient_cosine_standard_error
    assert np.isnan(found.mean_gradient_cosine) == np.isnan(error)
    assert not error < 0.1

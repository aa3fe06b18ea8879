"""vᵀH⁺v against dense eigendecompositions, and its bounds against measures known in full."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensllm.hessian.curvature import layers_of
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.lanczos import PositivePart, gauss_rule, positive_part, positive_quadratic


def _matrix(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return square + square.T


def _split(block: torch.Tensor, v: torch.Tensor) -> tuple[float, float, float]:
    values, vectors = torch.linalg.eigh(block)
    weights = (vectors.T @ v) ** 2
    return (
        float(weights @ values.clamp(min=0)),
        float(weights @ (-values).clamp(min=0)),
        float(values[-1]),
    )


@pytest.mark.parametrize("name", ["gpt2", pytest.param("t5", marks=pytest.mark.full)])
def test_form_of_a_model_is_that_of_the_dense_blocks(
    name, tiny_model, tiny_examples, dense_blocks, directions
):
    model, examples = tiny_model(name), tiny_examples(4)
    vectors = directions(model, scale=0.1)
    with double_differentiable(model):
        hessian = BlockHessian(model, layers_of(model), examples)
        forms = positive_quadratic(hessian, vectors, 100, tolerance=1e-3)
    for layer, block in dense_blocks(model, examples).items():
        positive, negative, largest = _split(block, vectors[layer])
        form = forms[layer]
        assert form.positive == pytest.approx(positive, rel=0.01), layer
        assert abs(form.negative - negative) <= form.error + 1e-5 * negative + 1e-12, layer
        assert form.largest_eigenvalue == pytest.approx(largest, rel=0.01), layer


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
def test_the_error_covers_the_truth(steps):
    blocks = {f"layer {i}": _matrix(40, i) for i in range(6)}
    vectors = {n: torch.linspace(-1, 2, 40, dtype=torch.float64) for n in blocks}
    forms = positive_quadratic(
        lambda u: {n: blocks[n] @ v for n, v in u.items()}, vectors, steps, tolerance=0.0
    )
    for layer, block in blocks.items():
        positive, negative, largest = _split(block, vectors[layer])
        form = forms[layer]
        assert abs(form.positive - positive) <= form.error * (1 + 1e-6)
        assert abs(form.negative - negative) <= form.error * (1 + 1e-6)
        assert form.positive - form.negative == pytest.approx(positive - negative)
        assert form.largest_eigenvalue <= largest + 1e-9
        assert form.steps == steps


def test_layers_run_in_lockstep_and_leave_when_done():
    blocks = {"easy": torch.eye(30, dtype=torch.float64), "hard": _matrix(30, 0)}
    vectors = {name: torch.ones(30, dtype=torch.float64) for name in blocks}
    asked: list[list[str]] = []

    def product(u):
        asked.append(sorted(u))
        return {n: blocks[n] @ v for n, v in u.items()}

    forms = positive_quadratic(product, vectors, 6, tolerance=1e-9)
    assert asked == [["easy", "hard"]] + [["hard"]] * 5
    assert forms["easy"].steps == 1
    assert forms["easy"].positive == pytest.approx(30.0)
    assert forms["easy"].error == 0.0


def test_a_flat_loss_has_no_curvature():
    forms = positive_quadratic(
        lambda u: {n: torch.zeros_like(v) for n, v in u.items()}, {"flat": torch.ones(5)}, 4
    )
    assert forms["flat"].positive == 0.0
    assert forms["flat"].negative == 0.0
    assert forms["flat"].largest_eigenvalue == 0.0


def test_float32_vectors_keep_their_type():
    block = _matrix(20, 3).float()
    seen = []

    def product(u):
        seen.append(u["a"].dtype)
        return {"a": block @ u["a"]}

    form = positive_quadratic(product, {"a": torch.ones(20)}, 20)["a"]
    positive, _, _ = _split(block.double(), torch.ones(20, dtype=torch.float64))
    assert set(seen) == {torch.float32}
    assert form.positive == pytest.approx(positive, rel=0.05)
    assert np.isfinite(form.error)


def _lanczos(values: np.ndarray, weights: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the measure Σ weights δ(values), by the Lanczos process on diag(values)."""
    basis, diagonal, off = [np.sqrt(weights)], [], []
    for _ in range(steps):
        image = values * basis[-1]
        diagonal.append(image @ basis[-1])
        span = np.array(basis)
        for _ in range(2):
            image = image - span.T @ (span @ image)
        off.append(np.linalg.norm(image))
        basis.append(image / off[-1])
    return np.array(diagonal), np.array(off)


@st.composite
def measures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Some positive, some negative eigenvalues and, as after fine-tuning, much weight near 0."""
    generator = np.random.default_rng(draw(st.integers(0, 9999)))
    size = draw(st.integers(30, 80))
    values = generator.normal(size=size) ** 3 * 10 ** generator.uniform(-2, 1)
    weights = generator.exponential(size=size) / (0.01 + np.abs(values)) ** draw(st.floats(0, 2))
    return values, weights / weights.sum()


@given(measures(), st.integers(1, 12))
def test_the_value_lies_between_the_bounds(measure, steps):
    values, weights = measure
    found = positive_part(*_lanczos(values, weights, steps))
    expected = weights @ np.maximum(values, 0)
    slack = 1e-6 * (weights @ np.abs(values))
    assert found.low - slack <= expected <= found.high + slack
    assert found.low - slack <= found.estimate <= found.high + slack


@given(measures())
def test_bounds_close_with_every_step(measure):
    found = [positive_part(*_lanczos(*measure, steps)) for steps in range(1, 10)]
    slack = 1e-6 * abs(found[0].high)
    assert all(b.low >= a.low - slack for a, b in pairwise(found))
    assert all(b.high <= a.high + slack for a, b in pairwise(found))


def test_one_step_is_scarfs_bound():
    found = positive_part(np.array([0.3]), np.array([1.2]))
    assert found.low == pytest.approx(0.3)  # Jensen
    assert found.high == pytest.approx((np.hypot(0.3, 1.2) + 0.3) / 2)


def test_a_complete_space_is_exact():
    values, weights = np.array([-2.0, -0.5, 1.0, 3.0]), np.full(4, 0.25)
    diagonal, off = _lanczos(values, weights, 4)
    found = positive_part(diagonal, off)
    assert found.estimate == pytest.approx(1.0)
    assert found.low == found.high == found.estimate


def test_a_node_already_at_the_kink():
    found = positive_part(np.array([0.0]), np.array([1.0]))
    assert found == PositivePart(
        pytest.approx(0.0), pytest.approx(0.0, abs=1e-9), pytest.approx(0.5)
    )


def test_a_gauss_value_that_has_settled_is_not_yet_right():
    """Nearly all weight next to 0, as after fine-tuning: only the bounds know what is missing."""
    values = np.concatenate([np.linspace(-0.02, 0.02, 61), [5.0, 7.0, 2.0, -1.0]])
    weights = np.concatenate([np.full(61, 0.998 / 61), [5e-4, 1e-3, 1e-4, 4e-4]])
    expected = weights @ np.maximum(values, 0)
    diagonal, off = _lanczos(values, weights, 4)
    third, fourth = (
        gauss_rule(diagonal[:3], off[:2]).positive,
        gauss_rule(diagonal, off[:3]).positive,
    )
    assert fourth == pytest.approx(third, rel=0.005)
    assert abs(fourth - expected) > 0.3 * expected
    found = positive_part(diagonal, off)
    assert found.low <= expected <= found.high

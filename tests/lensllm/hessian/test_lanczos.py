"""vᵀH⁺v against dense eigendecompositions."""

import numpy as np
import pytest
import torch

from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.lanczos import positive_quadratic
from lensllm.hessian.layers import layers_of


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

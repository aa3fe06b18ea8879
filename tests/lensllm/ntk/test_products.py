"""Exact products and the sketch, from factors, against gradients written out."""

from typing import Any

import numpy as np
import pytest
import torch

from lensllm.core.errors import ModelError
from lensllm.ntk.factors import Lookup, Outer, Use, Whole
from lensllm.ntk.products import Contraction, Sketch, expected_error

SHAPES = {"head": (30, 4), "gain": (1, 7), "table": (50, 3)}
PROBES, TOKENS = 9, 5


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def uses() -> dict[str, list[Use]]:
    """A tied weight (a head that is a table too), a gain, and an embedding used twice."""
    torch.manual_seed(0)

    def ids(rows: int) -> torch.Tensor:
        return torch.randint(rows, (PROBES, TOKENS))

    return {
        "head": [
            Outer(_draw(PROBES, TOKENS, 30), _draw(PROBES, TOKENS, 4)),
            Lookup(ids(30), _draw(PROBES, TOKENS, 4)),
        ],
        "gain": [Outer.row(_draw(PROBES, 7))],
        "table": [Lookup(ids(50), _draw(PROBES, TOKENS, 3)) for _ in range(2)],
    }


def _dense(name: str, use: Use) -> torch.Tensor:
    """(probes, rows, columns), written out."""
    rows, _ = SHAPES[name]
    match use:
        case Outer(left, right):
            return torch.einsum("btr,btc->brc", left, right)
        case Lookup(ids, right):
            onehot = torch.nn.functional.one_hot(ids, rows).double()
            return torch.einsum("btr,btc->brc", onehot, right)
        case Whole(gradients):
            return gradients
    raise AssertionError


def _gradients(uses: dict[str, list[Use]]) -> dict[str, torch.Tensor]:
    return {name: sum(_dense(name, use) for use in found) for name, found in uses.items()}


def _gram(uses: dict[str, list[Use]]) -> torch.Tensor:
    rows = torch.cat([g.flatten(1) for g in _gradients(uses).values()], dim=1)
    return rows @ rows.T


def _part(use: Any, start: int, stop: int) -> Use:
    match use:
        case Outer(left, right):
            return Outer(left[start:stop], right[start:stop])
        case Lookup(ids, right):
            return Lookup(ids[start:stop], right[start:stop])
        case Whole(gradients):
            return Whole(gradients[start:stop])
    raise AssertionError


def _fill(product: Any, uses: dict[str, list[Use]], *cuts: int) -> Any:
    for start, stop in zip((0, *cuts), (*cuts, PROBES), strict=True):
        product.add(start, stop, {n: [_part(u, start, stop) for u in f] for n, f in uses.items()})
    return product


def _sketch(width: int = 101) -> Sketch:
    return Sketch(SHAPES, PROBES, torch.float64, torch.device("cpu"), width)


@pytest.mark.parametrize("cuts", [(), (4,), (1, 2, 8)])
def test_contraction_is_the_gram_matrix(uses, cuts):
    gram = _fill(Contraction(SHAPES, PROBES), uses, *cuts).gram()
    torch.testing.assert_close(gram, _gram(uses), rtol=1e-12, atol=1e-12)


def test_a_weight_that_a_batch_does_not_use_adds_nothing(uses):
    expected = uses | {"table": [Lookup(use.ids[:4], use.right[:4]) for use in uses["table"]]}
    product = Contraction(SHAPES, PROBES)
    product.add(0, 4, {n: [_part(u, 0, 4) for u in f] for n, f in uses.items()})
    rest = {n: [_part(u, 4, PROBES) for u in f] for n, f in uses.items() if n != "table"}
    product.add(4, PROBES, {**rest, "table": []})
    rows = {n: g.flatten(1) for n, g in _gradients(uses).items()}
    rows["table"] = rows["table"].clone()
    rows["table"][4:] = 0
    assert expected
    matrix = torch.cat(list(rows.values()), dim=1)
    torch.testing.assert_close(product.gram(), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


def test_more_probes_than_are_multiplied_at_once():
    rows = _draw(150, 3, 11)
    product = Contraction({"w": (3, 11)}, 150)
    product.add(0, 150, {"w": [Whole(rows)]})
    expected = rows.flatten(1) @ rows.flatten(1).T
    torch.testing.assert_close(product.gram(), expected, rtol=1e-12, atol=1e-12)


def test_the_sketch_of_factors_is_that_of_whole_gradients(uses):
    whole = {name: [Whole(gradient)] for name, gradient in _gradients(uses).items()}
    expected = _fill(_sketch(), whole).values
    torch.testing.assert_close(_fill(_sketch(), uses, 2, 5).values, expected)


def test_a_sketch_wider_than_the_gradient_loses_nothing(uses):
    gram = _fill(_sketch(width=307), uses).gram()
    torch.testing.assert_close(gram, _gram(uses), rtol=1e-12, atol=1e-12)


def test_the_sketch_errs_as_much_as_it_says():
    """Gradients of low and of full rank: the error follows the participation ratio."""
    torch.manual_seed(1)
    for rank in (2, 40, 1000):
        rows = (_draw(40, rank) @ _draw(rank, 12_000)).view(40, 100, 120)
        sketch = Sketch({"w": (100, 120)}, 40, torch.float64, torch.device("cpu"), width=997)
        sketch.add(0, 40, {"w": [Whole(rows)]})
        exact = rows.flatten(1) @ rows.flatten(1).T
        error = float((sketch.gram() - exact).norm() / exact.norm())
        assert expected_error(exact.numpy(), 12_000, 997) == pytest.approx(error, rel=0.5)


def test_a_gradient_that_has_a_bucket_for_every_entry_has_no_error():
    assert expected_error(np.eye(5), 65_521) == 0
    assert expected_error(np.eye(5), 65_522) > 0


def test_the_default_width_is_enough_for_235_unlike_probes():
    torch.manual_seed(2)
    rows = torch.randn(235, 400, 250)
    sketch = Sketch({"w": (400, 250)}, 235, torch.float32, torch.device("cpu"))
    sketch.add(0, 235, {"w": [Whole(rows)]})
    exact = (rows.flatten(1) @ rows.flatten(1).T).double()
    assert float((sketch.gram() - exact).norm() / exact.norm()) <= 0.06


@pytest.mark.parametrize("make", [lambda: Contraction(SHAPES, PROBES), _sketch])
def test_a_gradient_that_is_not_finite_is_named(uses, make):
    uses["gain"] = [Outer.row(torch.full((PROBES, 7), np.nan, dtype=torch.float64))]
    with pytest.raises(ModelError, match="gradient of gain is not finite"):
        _fill(make(), uses).gram()

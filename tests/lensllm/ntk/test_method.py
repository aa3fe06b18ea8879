"""Which way is taken, and that the memory is obeyed."""

import numpy as np
import pytest
import torch

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.models.memory import amount
from lensllm.ntk import method, residual_kernel
from lensllm.ntk.batched import batched_gradients
from lensllm.ntk.method import MEMORY_BYTES
from tests.lensllm import families


def _probes(count: int, tokens: int) -> list[Example]:
    draw = np.random.default_rng(0)
    rows = draw.integers(1, families.VOCABULARY, (count, tokens)).tolist()
    return [Example(row[: tokens // 2], row[tokens // 2 :]) for row in rows]


def test_few_probes_are_multiplied_exactly():
    kernel = residual_kernel(families.build("gpt2"), _probes(6, 8))
    assert kernel.computation.method == "exact"
    assert kernel.computation.passes == "batched"
    assert kernel.computation.reason == "the products of 6 probes add 25% to a pass"
    assert kernel.relative_error == 0


def test_many_short_probes_are_sketched():
    kernel = residual_kernel(families.build("gpt2"), _probes(30, 8))
    assert kernel.computation.method == "sketch"
    assert kernel.computation.reason == "exact products of 30 probes would add 125% to a pass"
    assert kernel.relative_error == 0  # fewer weights than the sketch has numbers


def test_what_does_not_fit_is_sketched(monkeypatch):
    model, probes = families.build("llama").float(), _probes(40, 30)
    assert residual_kernel(model, probes).computation.method == "exact"
    monkeypatch.setattr(method, "WIDTH", 997)  # a tiny model's factors are smaller than a sketch
    kernel = residual_kernel(model, probes, memory_bytes=2**20)
    assert kernel.computation.method == "sketch"
    assert kernel.computation.reason.startswith("exact would take")


@pytest.mark.parametrize("method", ["exact", "sketch"])
def test_the_user_may_choose(method):
    kernel = residual_kernel(families.build("gpt2"), _probes(30, 8), method=method)
    assert method == kernel.computation.method
    assert kernel.computation.reason == "as configured"


def test_many_short_probes_are_multiplied_exactly_where_only_that_fits():
    computation = residual_kernel(
        families.build("gpt2"), _probes(30, 8), memory_bytes=3 * 2**20
    ).computation
    assert computation.method == "exact"
    assert computation.reason == "a sketch would take 15 MiB"


@pytest.mark.parametrize(
    ("method", "memory_bytes", "said"),
    [
        ("auto", 100_000, r"the kernel takes 0\.46 MiB for 9 probes by exact products, more than "
         r"the 0\.095 MiB of kernel\.memory_gib; raise it or lower kernel\.probes"),
        ("exact", 100_000, r"by exact products, .*; raise it or lower kernel\.probes"),
        ("sketch", 100_000, r"by sketch products, .*; raise it or lower kernel\.probes"),
        ("sketch", 1_000_000, r"raise it, set kernel\.method=auto or lower kernel\.probes"),
    ],
)  # fmt: skip
def test_memory_for_too_few_probes(method, memory_bytes, said):
    model, probes = families.build("gpt2"), _probes(9, 8)
    with pytest.raises(ModelError, match=said):
        residual_kernel(model, probes, method=method, memory_bytes=memory_bytes)


def test_exact_products_that_do_not_fit_where_a_sketch_does(monkeypatch):
    monkeypatch.setattr(method, "WIDTH", 997)
    with pytest.raises(ModelError, match=r"by exact products, .* set kernel\.method=auto or lower"):
        residual_kernel(
            families.build("llama").float(), _probes(40, 30), method="exact", memory_bytes=2**20
        )


def test_amounts_are_read_by_people():
    assert [amount(2**k) for k in (10, 26, 30, 33)] == [
        "0.00098 MiB", "64 MiB", "1 GiB", "8 GiB"
    ]  # fmt: skip


def test_memory_for_not_even_one_gradient():
    with pytest.raises(ModelError, match="for the gradient of a single probe, more than the"):
        residual_kernel(families.build("gpt2"), _probes(3, 8), memory_bytes=1000)


def test_a_small_memory_makes_small_batches_and_the_same_kernel(monkeypatch):
    """The model sees as many probes at a time as the memory holds."""
    model, probes = families.build("llama"), _probes(40, 30)
    seen: list[int] = []
    forward = model.forward

    def watched(input_ids: torch.Tensor, **rest: object) -> object:
        seen.append(len(input_ids))
        return forward(input_ids, **rest)

    monkeypatch.setattr(model, "forward", watched)
    largest = {}
    matrix = {}
    for memory in (MEMORY_BYTES, 28 * 2**20):
        seen.clear()
        kernel = residual_kernel(model, probes, method="sketch", memory_bytes=memory)
        largest[memory], matrix[memory] = max(seen), kernel.matrix
    small, large = sorted(largest)
    assert largest[small] < largest[large]
    np.testing.assert_allclose(matrix[small], matrix[large], rtol=1e-9)


def test_weights_that_only_autograd_knows_are_named():
    reason = residual_kernel(families.build("mixtral"), families.probes(3)).computation.reason
    assert "one probe at a time: model.layers.0.mlp" in reason


def test_many_targets_count_for_the_memory():
    """The head's factors go with the targets: the longest probe need not have the most."""
    model, probes = families.build("gpt2"), _probes(2, 20)
    few = [Example(p.prompt[:19], p.completion[:1]) for p in probes]
    weights = dict(model.named_parameters())
    found = method.gradient_cost(model, weights, [*few, Example([1] * 19, [1, 2])], MEMORY_BYTES)
    uses, _ = batched_gradients(model, weights, [Example([1] * 2, [1] * 18)] * 3)
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for parts in uses.values() for use in parts for t in use.tensors
    }  # fmt: skip
    kept = found.kept([Example([1] * 2, [1] * 18)] * 3)
    assert kept == pytest.approx(sum(storages.values()), rel=0.2)


def test_a_mistake_in_one_of_the_two_that_are_tried_is_seen(monkeypatch):
    """A model that looks at the padding: only the shorter of two is computed wrong in a batch."""
    model = families.build("gpt2")
    block = model.transformer.h[0]
    monkeypatch.setattr(
        block, "forward", lambda x, *a, **k: x + x.mean(1, keepdim=True), raising=True
    )
    kernel = residual_kernel(model, [Example([1], [2]), *_probes(3, 12)])
    assert kernel.computation.passes == "single"
    assert "gradients from a batch differ from single ones" in kernel.computation.reason

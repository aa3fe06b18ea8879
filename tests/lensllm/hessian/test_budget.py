"""What graphs hold, against the storages that are alive while they are."""

import weakref
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import transformers as hf
from hypothesis import given
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lensllm.hessian.curvature import layers_of
from lensllm.hessian.differentiable import (
    double_differentiable,
    graph_footprint,
    micro_batches,
    padded_tokens,
    training_footprint,
)
from lensllm.hessian.hvp import BlockHessian, example_losses
from lensllm.models.batch import Example, collate, token_losses

_VOCABULARY, _LENGTH = 256, 48
_SPECIAL = {"vocab_size": _VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
_SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
_CONFIGS = {
    "gpt2": lambda: hf.GPT2Config(**_SPECIAL, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "qwen3": lambda: hf.Qwen3Config(
        **_SPECIAL, **_SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8
    ),
    "t5": lambda: hf.T5Config(
        **_SPECIAL, d_model=32, d_kv=8, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0
    ),
}


_CAUSAL = _CONFIGS["gpt2"]()


@pytest.fixture(params=_CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    config = _CONFIGS[request.param]()
    auto = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    torch.manual_seed(0)
    return auto.from_config(config).eval()


def _example(length: int, completion: int) -> Example:
    tokens = [1 + i % (_VOCABULARY - 1) for i in range(length)]
    return Example(tokens[:-completion], tokens[-completion:])


class _Allocated(TorchDispatchMode):
    """Bytes of the storages made within it that are alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._key(tensor) for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            key, size = self._key(tensor), tensor.untyped_storage().nbytes()
            if key not in given and key not in self._alive:
                self.now += size
                self._alive[key] = weakref.ref(
                    tensor.untyped_storage(), lambda _, key=key, size=size: self._freed(key, size)
                )
        self.most = max(self.most, self.now)
        return out

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _freed(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def test_a_training_step_holds_what_is_alive_before_its_backward_pass(model):
    example = _example(_LENGTH, 12)
    found = training_footprint(model, example)
    with _Allocated() as allocated:
        losses = token_losses(model, collate([example] * 4, model.config))
        assert found.bytes_of([example] * 4, model.config) == pytest.approx(allocated.now, rel=0.1)
    assert losses.requires_grad


@pytest.mark.parametrize("lengths", [[(48, 12)] * 3, [(48, 4)] * 2, [(24, 12), (30, 3)], [(12, 6)]])
def test_graphs_of_other_batches_hold_what_is_foreseen(model, lengths):
    """From one long example; shorter ones may hold less, never much more."""
    weights = list(model.parameters())

    def build(*examples: Example) -> Any:
        batch = collate(examples, model.config)
        return torch.autograd.grad(example_losses(model, batch).sum(), weights, create_graph=True)

    longest, group = _example(_LENGTH, 12), [_example(*pair) for pair in lengths]
    with double_differentiable(model):
        foreseen = graph_footprint(model, longest, lambda: build(longest)).bytes_of(
            group, model.config
        )
        with _Allocated() as allocated:
            graph = build(*group)
            held = allocated.now - sum(gradient.nbytes for gradient in graph)
    assert 0.5 * foreseen <= held <= 1.15 * foreseen


def test_weights_are_not_counted(model):
    example = _example(2, 1)
    assert training_footprint(model, example).bytes_of([example], model.config) < sum(
        weight.nbytes for weight in model.parameters()
    )


@given(st.lists(st.tuples(st.integers(2, 20), st.integers(1, 1)), min_size=1), st.integers(0, 60))
def test_micro_batches_hold_every_example_once_and_fit(lengths, most):
    examples = [_example(*pair) for pair in lengths]
    groups = micro_batches(examples, lambda group: padded_tokens(group, _CAUSAL) <= most)
    assert sorted(map(id, examples)) == sorted(id(e) for group in groups for e in group)
    assert [len(e) for group in groups for e in group] == sorted(map(len, examples))
    assert all(len(group) == 1 or padded_tokens(group, _CAUSAL) <= most for group in groups)
    if most >= sum(map(len, examples)) * 20:
        assert len(groups) == 1


def test_whoever_can_train_a_model_can_examine_it(model):
    """By default the peak is at most twice that of a training step, with the six vectors that an
    examination holds: the distance moved, three of Lanczos, a product, and one on its way."""
    examples = [_example(_LENGTH - i % 3, 8) for i in range(16)]
    size = sum(weight.nbytes for weight in model.parameters())
    with _Allocated() as training:
        losses = token_losses(model, collate(examples, model.config))
        gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
        del losses, gradients
    step = training.most + 3 * size  # weights and two moments; gradients are in it
    layers = layers_of(model)
    with double_differentiable(model), _Allocated() as examining:
        hessian = BlockHessian(model, layers, examples)
        vectors = {
            layer: torch.ones(sum(weight.numel() for weight in weights))
            for layer, weights in hessian.parameters.items()
        }
        hessian(vectors)
        hessian.whole(vectors)
    assert examining.most + 4 * size <= 2 * step  # and weights, and what vectors leave out

"""The residual kernel against the full tangent kernel, formed output by output."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lensllm.core.errors import DataError, ModelError
from lensllm.models.batch import Example
from lensllm.ntk import residual_kernel


def _reference(model: Any, examples: list[Example], plain_logits: Any) -> tuple[Any, Any]:
    """PᵀΘP and ρ from the Jacobian of every scaled logit, by ``torch.func``."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    scales = torch.cat([torch.full((len(e.completion),), len(e.completion)) for e in examples])
    scales = scales.double().rsqrt()[:, None]

    def outputs(w: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat(plain_logits(model, examples, w)) * scales

    jacobian = torch.func.jacrev(outputs)(weights)
    flat = torch.cat([j.flatten(2) for j in jacobian.values()], dim=2)  # (targets, V, weights)
    logits = outputs(weights) / scales
    truth = torch.tensor([t for e in examples for t in e.completion])
    residual = (logits.softmax(-1) - torch.eye(logits.shape[1])[truth]) * scales
    owner = torch.repeat_interleave(
        torch.arange(len(examples)), torch.tensor([len(e.completion) for e in examples])
    )
    norms = torch.stack([residual[owner == i].norm() for i in range(len(examples))])
    directions = torch.zeros(len(examples), *residual.shape, dtype=torch.float64)
    directions[owner, torch.arange(len(truth))] = residual / norms[owner, None]
    tangents = torch.einsum("itv,tvw->iw", directions, flat)
    return (tangents @ tangents.T).numpy(), norms.numpy()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_kernel_is_the_projected_tangent_kernel(
    architecture, tiny_model, tiny_examples, plain_logits
):
    model, probes = tiny_model(architecture), tiny_examples(5)
    kernel = residual_kernel(model, probes)
    expected, norms = _reference(model, probes, plain_logits)
    assert np.linalg.norm(kernel.matrix - expected) <= 1e-6 * np.linalg.norm(expected)
    np.testing.assert_allclose(kernel.residual_norms, norms, rtol=1e-6)


def test_tied_weights_are_one_parameter(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert residual_kernel(model, tiny_examples(3)).parameters == 1168


def test_the_loss_falls_as_the_kernel_says(architecture, tiny_model, tiny_examples, plain_losses):
    model, probes = tiny_model(architecture), tiny_examples(6)
    kernel = residual_kernel(model, probes)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    slopes = torch.func.grad(lambda w: plain_losses(model, probes, w).mean())(weights)

    def loss_after(time: float) -> float:
        moved = {name: w - time * slopes[name] for name, w in weights.items()}
        return float(plain_losses(model, probes, moved).mean())

    step = 1e-4
    measured = (loss_after(step) - loss_after(-step)) / (2 * step)
    n, norms = len(probes), kernel.residual_norms
    assert -(norms @ kernel.matrix @ norms) / n**2 == pytest.approx(measured, rel=1e-3)
    rate = -2 * (kernel.spectrum.eigenvalues * kernel.spectrum.projections_squared).sum()
    assert rate / (2 * n) == pytest.approx(measured, rel=1e-3)


def test_residual_starts_at_the_squared_norms_and_falls(tiny_model, tiny_examples):
    kernel = residual_kernel(tiny_model("gpt2"), tiny_examples(8))
    curve = kernel.spectrum.residual(np.linspace(0, 20, 40))
    assert curve[0] == pytest.approx((kernel.residual_norms**2).sum())
    assert (np.diff(curve) < 0).all()


def test_kernel_of_a_probe_does_not_depend_on_the_others(architecture, tiny_model, tiny_examples):
    model, probes = tiny_model(architecture), tiny_examples(6)
    some = residual_kernel(model, probes[:3])
    everything = residual_kernel(model, probes)
    np.testing.assert_allclose(some.matrix, everything.matrix[:3, :3], rtol=1e-12)


def test_float32_models_lose_little(tiny_model, tiny_examples):
    model, probes = tiny_model("gpt2"), tiny_examples(6)
    exact = residual_kernel(model, probes).matrix
    single = residual_kernel(model.float(), probes).matrix
    assert np.linalg.norm(single - exact) <= 1e-5 * np.linalg.norm(exact)


def test_dropout_is_off_and_the_mode_put_back(tiny_model, tiny_examples):
    model, probes = tiny_model("gpt2"), tiny_examples(3)
    expected = residual_kernel(model, probes).matrix
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    model.train()
    np.testing.assert_array_equal(residual_kernel(model, probes).matrix, expected)
    assert model.training


def test_frozen_weights_are_left_out(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    model.transformer.wte.weight.requires_grad_(False)
    assert residual_kernel(model, tiny_examples(3)).parameters == 1168 - 88


def test_a_probe_without_residual_has_a_row_of_zeros(tiny_model):
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[3] = 1e4  # token 3 is certain, whatever the prompt
        model.model.norm.weight.fill_(1.0)
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    kernel = residual_kernel(model, [Example([1], [3]), Example([1], [2])])
    assert kernel.residual_norms[0] == 0.0
    assert kernel.matrix[0].tolist() == [0.0, 0.0]
    assert np.isfinite(kernel.matrix).all()


class _Backward(torch.autograd.Function):
    """The identity; its backward pass is what ``change`` makes of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: Callable[..., torch.Tensor]) -> torch.Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.change(gradient), None


def _backward_of_input(module: torch.nn.Module, change: Callable[..., torch.Tensor]) -> None:
    module.register_forward_pre_hook(lambda _, args: (_Backward.apply(args[0], change), *args[1:]))


def _damaged(name: str, value: float) -> Callable[[Any], None]:
    return lambda model: model.get_parameter(name).view(-1)[:1].fill_(value)


_MLP = "model.layers.0.mlp"


@pytest.mark.parametrize("method", ["exact", "sketch"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        *(
            (_damaged(name, value), f"the weight {name} is not finite; the checkpoint is damaged")
            for name, value in (
                ("lm_head.weight", math.nan),
                (f"{_MLP}.down_proj.weight", math.inf),
                ("model.layers.0.self_attn.o_proj.weight", math.nan),
                ("model.norm.weight", math.nan),
                ("model.embed_tokens.weight", math.nan),
            )
        ),
        (
            lambda model: model.get_parameter(f"{_MLP}.up_proj.weight").mul_(1e308),
            rf"the output of {_MLP}\.(up|down)_proj is not finite on a kernel probe, though every "
            "weight is: it overflows float64",
        ),
        (
            lambda model: _backward_of_input(
                model.get_submodule(f"{_MLP}.down_proj"), lambda g: g * math.nan
            ),
            f"the gradient is not finite from {_MLP}.up_proj.weight on downwards",
        ),
        (
            lambda model: _backward_of_input(model.lm_head, lambda g: g * math.inf),
            "the gradient is not finite from model.norm.weight on downwards",
        ),
    ],
)
def test_the_layer_where_a_gradient_stops_being_finite_is_named(
    tiny_model, tiny_examples, method, damage, said
):
    model = tiny_model("qwen3")
    with torch.no_grad():
        damage(model)
    with pytest.raises(ModelError, match=said) as error:
        residual_kernel(model, tiny_examples(2), method=method)
    assert ("damaged" in str(error.value)) == ("the weight" in said)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_damaged_row_that_one_probe_reads_is_found(tiny_model):
    """Finite weights; only the middle probe's token overflows."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[7] = 1e200
    probes = [Example([1, 2], [3]), Example([1, 7, 3], [4, 5]), Example([1, 2, 3, 4], [6, 6])]
    with pytest.raises(ModelError, match=r"the output of transformer\.\S+ is not finite"):
        residual_kernel(model, probes)


def test_gradients_too_large_to_be_squared(tiny_model, tiny_examples):
    model = tiny_model("gpt2").float()
    _backward_of_input(model.lm_head, lambda g: g * 1e25)
    with pytest.raises(ModelError, match=r"gradient of \S+ is not finite .* too large to be squar"):
        residual_kernel(model, tiny_examples(3), method="exact")


def _no_backward(gradient: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("backward of fused attention is not implemented\nat line 3")


@torch.library.custom_op("lensllm_test::opaque", mutates_args=())
def _opaque(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@pytest.mark.parametrize(
    ("close", "why"),
    [
        (
            lambda layer: _backward_of_input(layer, _no_backward),
            r"\(backward of fused attention is not implemented\)",
        ),
        (
            lambda layer: layer.register_forward_pre_hook(lambda _, args: (_opaque(args[0]),)),
            r"\(.*no autograd formula.*\)",
        ),
    ],
)
def test_attention_without_a_backward_pass_is_a_sentence(tiny_model, tiny_examples, close, why):
    model = tiny_model("qwen3")
    close(model.model.layers[0].self_attn.o_proj)
    said = f"Qwen3ForCausalLM cannot be differentiated on a kernel probe {why}; .*'eager'"
    with pytest.raises(ModelError, match=said):
        residual_kernel(model, tiny_examples(3))


def test_memory_that_a_device_lacks_is_no_fault_of_the_model(tiny_model, tiny_examples):
    def full(gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = tiny_model("qwen3")
    _backward_of_input(model.lm_head, full)
    with pytest.raises(torch.OutOfMemoryError):
        residual_kernel(model, tiny_examples(3))


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ([], "no probes"),
        ([Example([1], [2]), Example([1], [])], "probe 1 has no target token"),
        ([Example([1, 11], [2])], "probe 0 has token 11, and the model knows 0 to 10"),
        ([Example([1], [-1])], "probe 0 has token -1, and the model knows 0 to 10"),
    ],
)
def test_probes_that_cannot_be_used(tiny_model, probes, said):
    with pytest.raises(DataError, match=said):
        residual_kernel(tiny_model("gpt2"), probes)


def test_a_probe_longer_than_the_positions(tiny_model):
    with pytest.raises(ModelError, match="probe of 32 tokens is longer than the positions of GPT2"):
        residual_kernel(tiny_model("gpt2"), [Example([1], [2]), Example([1] * 30, [2, 3])])


def test_a_frozen_model_has_no_kernel(tiny_model, tiny_examples):
    model = tiny_model("gpt2").requires_grad_(False)
    with pytest.raises(ModelError, match="every one is frozen"):
        residual_kernel(model, tiny_examples(3))


def test_a_kernel_of_zeros_is_refused(tiny_model):
    model = tiny_model("gpt2")
    for name, weight in model.named_parameters():
        weight.requires_grad_(name == "transformer.wpe.weight")
    with torch.no_grad():  # nothing of the positions reaches the head
        model.transformer.ln_f.weight.zero_()
    with pytest.raises(ModelError, match="the kernel is zero"):
        residual_kernel(model, [Example([1], [3]), Example([1], [2])])


def test_a_loss_without_gradient_is_refused(tiny_model, tiny_examples, monkeypatch):
    model = tiny_model("qwen3")
    forward = model.forward
    monkeypatch.setattr(model, "forward", torch.no_grad()(forward))
    with pytest.raises(ModelError, match="has no gradient"):
        residual_kernel(model, tiny_examples(3))


def test_certain_targets_keep_their_digits(tiny_model):
    """Float32 residuals next to zero, against float64."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.bias += 30 * model.lm_head.weight[3]
    probes = [Example([1], [3]), Example([2, 4], [3, 3])]
    expected = residual_kernel(model, probes).residual_norms
    assert 0 < expected.max() < 1e-3
    found = residual_kernel(model.float(), probes).residual_norms
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_parts_keep_their_own_mode(tiny_model, tiny_examples):
    model = tiny_model("gpt2").train()
    model.transformer.h[0].eval()
    with torch.no_grad():
        residual_kernel(model, tiny_examples(3))
    assert model.training
    assert not model.transformer.h[0].training

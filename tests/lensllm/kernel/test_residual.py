"""The residual kernel against the full tangent kernel, formed output by output."""

from typing import Any

import numpy as np
import pytest
import torch

from lensllm.errors import DataError, ModelError
from lensllm.kernel import residual_kernel
from lensllm.models.batch import Example


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
    assert kernel.parameters == sum(p.numel() for p in model.parameters())


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


def test_damaged_weights_are_named(tiny_model, tiny_examples):
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"gradient of model\.embed_tokens\.weight is not finite"):
        residual_kernel(model, tiny_examples(2))


@pytest.mark.parametrize(
    ("probes", "said"),
    [([], "no probes"), ([Example([1], [2]), Example([1], [])], "probe 1 has no target token")],
)
def test_probes_that_cannot_be_used(tiny_model, probes, said):
    with pytest.raises(DataError, match=said):
        residual_kernel(tiny_model("gpt2"), probes)


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

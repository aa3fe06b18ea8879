"""What the context does to a model for a while, beyond what every family shows."""

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.models.llama.modeling_llama import eager_attention_forward

from lensllm.core.errors import ModelError
from lensllm.hessian.curvature import layers_of
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from tests.lensllm import families


def _vectors(model: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    named = dict(model.named_parameters())
    return {
        layer: torch.randn(sum(named[n].numel() for n in names), generator=generator).double()
        for layer, names in layers_of(model).items()
    }


def _whole(model: Any) -> Tensor:
    with double_differentiable(model):
        hessian = BlockHessian(model, layers_of(model), families.probes(2))
        return torch.cat(list(hessian.whole(_vectors(model)).values()))


@pytest.mark.parametrize("attention", ["eager", "sdpa", {"": "sdpa", "decoder": "eager"}])
@pytest.mark.parametrize("training", [True, False])
def test_attention_and_mode_are_put_back(tiny_model, attention, training):
    model = tiny_model("t5").train(training)
    model.encoder.dropout.eval()  # a part of its own mind
    configs = model.config, model.encoder.config, model.decoder.config
    for config, wanted in zip(configs, ("sdpa", "sdpa", "eager"), strict=True):
        config._attn_implementation = wanted if isinstance(attention, dict) else attention
    before = [config._attn_implementation for config in configs]
    with suppress(InterruptedError), double_differentiable(model):
        assert [config._attn_implementation for config in configs] == ["eager"] * 3
        assert not any(module.training for module in model.modules())
        raise InterruptedError
    assert before == [config._attn_implementation for config in configs]
    assert training == model.training
    assert not model.encoder.dropout.training


def test_experts_are_eager_and_put_back():
    model = families.build("mixtral").float()
    model.set_experts_implementation("grouped_mm")  # has no second derivative
    with double_differentiable(model):
        assert model.config._experts_implementation == "eager"
        BlockHessian(model, layers_of(model), families.probes(2)).whole(_vectors(model))
    assert model.config._experts_implementation == "grouped_mm"


def test_float64_stays_float64_and_in_its_place():
    model = families.build("switch-two")  # a forward pass makes its routers float32
    before = [(weight.dtype, weight.data_ptr()) for weight in model.parameters()]
    with double_differentiable(model):
        model(**{name: torch.tensor([[1, 2]]) for name in ("input_ids", "decoder_input_ids")})
        assert model.dtype == torch.float64
    assert before == [(weight.dtype, weight.data_ptr()) for weight in model.parameters()]


def test_scans_of_mambapy_are_avoided():
    model = families.build("mamba")
    mixers = [layer.mixer for layer in model.backbone.layers]
    for mixer in mixers:
        mixer.use_mambapy = True
    with double_differentiable(model):
        assert not any(mixer.use_mambapy for mixer in mixers)
    assert all(mixer.use_mambapy for mixer in mixers)


def test_the_padding_counts_under_an_adapter_too():
    """vᵀHv is the second difference of the loss, though peft looks up with the padding's index."""
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=3, target_modules=["embed_tokens"])
    model = peft.get_peft_model(families.build("llama"), adapter).double()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator))
    prompt = torch.tensor([[0, 0, 5]])  # the padding, mostly

    def loss() -> Tensor:
        return F.cross_entropy(model(prompt).logits[0, -1:], torch.tensor([7]))

    step, losses = 1e-4, []
    with families.in_float64(model), double_differentiable(model):
        gradients = torch.autograd.grad(loss(), weights, create_graph=True)
        ones = [torch.ones_like(weight) for weight in weights]
        products = torch.autograd.grad(gradients, weights, ones)
        with torch.no_grad():
            for move in (-step, step, step):
                for weight in weights:
                    weight += move
                losses.append(loss())
    behind, here, ahead = losses
    found = sum(product.sum() for product in products)
    torch.testing.assert_close(found, (ahead - 2 * here + behind) / step**2, rtol=1e-3, atol=0)


class _OwnAttention(nn.Module):
    """Calls the fused function itself, so that no configuration says which."""

    def __init__(self, attention: nn.Module, fused: bool) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(dict(attention.named_children()))
        self.fused = fused

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        q, k, v = (
            self.projections[f"{name}_proj"](hidden_states).unflatten(-1, (-1, 4)).transpose(1, 2)
            for name in "qkv"
        )
        k, v = (states.repeat_interleave(2, dim=1) for states in (k, v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
            scores = (q @ k.transpose(2, 3) / 2).masked_fill(~seen, -torch.inf)
            mixed = scores.softmax(-1) @ v
        return self.projections["o_proj"](mixed.transpose(1, 2).flatten(2)), None


def _with_own_attention(fused: bool) -> Any:
    model = families.build("llama")
    for layer in model.model.layers:
        layer.self_attn = _OwnAttention(layer.self_attn, fused)
    return model


def test_attention_of_a_modules_own_is_exact():
    expected = _whole(_with_own_attention(fused=False))
    torch.testing.assert_close(_whole(_with_own_attention(fused=True)), expected)


def test_outside_the_context_it_is_refused():
    model = _with_own_attention(fused=True)
    hessian = BlockHessian(model, layers_of(model), families.probes(2)[:1])
    with pytest.raises(ModelError, match="LlamaForCausalLM cannot be differentiated twice"):
        hessian.whole(_vectors(model))


class _Stubborn(LlamaForCausalLM):
    """Does not let its attention be changed, as many models with code of their own do not."""

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False


def test_attention_that_cannot_be_changed():
    AttentionInterface.register("fast", eager_attention_forward)
    model = _Stubborn._from_config(families.build("llama").config, attn_implementation="fast")
    sentence = "the attention 'fast' of _Stubborn cannot be changed"
    with pytest.raises(ModelError, match=sentence):
        _whole(model.double())
    assert model.config._attn_implementation == "fast"


def test_a_forward_pass_closed_to_autograd():
    model = families.build("llama")
    model.register_forward_hook(
        lambda module, args, out: setattr(out, "logits", out.logits.detach())
    )
    with pytest.raises(ModelError, match="the loss has no gradient"):
        _whole(model)

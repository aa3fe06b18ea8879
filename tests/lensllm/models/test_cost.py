"""FLOPs from shapes against torch's own counter, for every family of architectures."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.cost import forward_flops, shape_of, train_flops
from tests.lensllm import families

# of one length: padding is not charged
EXAMPLES = [Example(list(range(1, 13)), list(range(5, 14))) for _ in range(4)]
LEFT_OUT = {
    "mamba",  # its scan is a product of matrices in transformers' slow form, and charged as none
    "llama-low-rank",  # adapters that are not called as peft calls them
}
ADAPTED = {  # name → family and the linear maps with an adapter
    "gpt2": ("gpt2", ["c_attn"]),
    "llama all": ("llama", "all-linear"),
    "llama values only": ("llama", ["v_proj"]),
    "llama above the first layer": ("llama", r".*layers\.1\.mlp\.down_proj"),
    "mixtral": ("mixtral", ["q_proj", "v_proj"]),
    "t5": ("t5", ["q", "v"]),
    "t5 decoder only": ("t5", r"decoder.*SelfAttention\.[qv]"),
    "t5 encoder only": ("t5", r"encoder.*SelfAttention\.[qv]"),
    "bart": ("bart", ["q_proj", "v_proj"]),
}


def _counted(model):
    """Of a forward and a backward pass, as torch counts them."""
    batch = collate(EXAMPLES, model.config)
    with FlopCounterMode(display=False) as forward:
        loss = token_losses(model, batch).mean()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", sorted(set(families.NAMES) - LEFT_OUT))
def test_agrees_with_the_flop_counter(name: str):
    model = families.build(name, attention="eager")  # the counter sees no fused attention
    forward, backward = _counted(model)

    shape = shape_of(model)
    assert forward_flops(shape, EXAMPLES) == pytest.approx(forward, rel=0.03)
    assert train_flops(shape, EXAMPLES, 1) == pytest.approx(forward + backward, rel=0.03)
    assert train_flops(shape, EXAMPLES, 2) == 2 * train_flops(shape, EXAMPLES, 1)


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_spare_the_gradients_of_frozen_weights(name: str):
    peft = pytest.importorskip("peft")
    family, targets = ADAPTED[name]
    model = families.build(family, attention="eager")
    full = train_flops(shape_of(model), EXAMPLES, 1)
    adapters = peft.LoraConfig(r=2, target_modules=targets)
    model = peft.get_peft_model(model, adapters, autocast_adapter_dtype=False).double()
    forward, backward = _counted(model)

    shape = shape_of(model)
    assert forward_flops(shape, EXAMPLES) == pytest.approx(forward, rel=0.03)
    assert train_flops(shape, EXAMPLES, 1) == pytest.approx(forward + backward, rel=0.03)
    assert train_flops(shape, EXAMPLES, 1) < full


def test_a_mixture_is_charged_with_the_experts_a_token_meets():
    few, many = (
        shape_of(families.build(name)).encoder.forward for name in ("switch-two", "switch")
    )
    assert many - few == 16 * (families.EXPERTS - 2)  # the router's rows alone


def test_on_the_meta_device():
    model = families.build("t5")
    assert shape_of(model.to("meta")) == shape_of(families.build("t5"))

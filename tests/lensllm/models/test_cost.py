"""FLOPs from shapes against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.cost import forward_flops, shape_of, train_flops

CONFIGS = {
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "opt": OPTConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=64,
        max_position_embeddings=64,
    ),
    "llama grouped": LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        head_dim=24,
    ),
    "t5": T5Config(
        vocab_size=300,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    ),
}
EXAMPLES = [Example(list(range(1, 21)), list(range(5, 17))) for _ in range(3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_the_flop_counter(name: str):
    config = CONFIGS[name]
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = (
        T5ForConditionalGeneration(config)
        if config.is_encoder_decoder
        else AutoModelForCausalLM.from_config(config)
    ).train()
    batch = collate(EXAMPLES, config)

    with FlopCounterMode(display=False) as forward:
        loss = token_losses(model, batch).mean()
    with FlopCounterMode(display=False) as backward:
        loss.backward()

    shape = shape_of(model)
    assert forward.get_total_flops() == pytest.approx(forward_flops(shape, EXAMPLES), rel=0.03)
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == pytest.approx(train_flops(shape, EXAMPLES, epochs=1), rel=0.03)

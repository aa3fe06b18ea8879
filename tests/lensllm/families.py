"""A tiny random model of every family of architectures, and the probes they are measured on.

``build(name)`` makes one of ``NAMES``: two layers of width 16, a few thousand weights, float64, no
dropout, the same weights at every call. The sizes differ from each other wherever they can, so that
no transposition goes unseen. Token 0 is the padding, too: many families leave it out of the
gradient of their embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn
from torch.overrides import TorchFunctionMode

from lensllm.models.batch import Example

VOCABULARY = 48
EXPERTS = 16

_IDS = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_TIED = {"tie_word_embeddings": True}
_UNTIED = {"tie_word_embeddings": False}
_SIZES: dict[str, Any] = {  # as most families call them
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
_GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_OPT |= {"max_position_embeddings": 32, "dropout": 0.0}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
_SLIDING |= {"query_pre_attn_scalar": 4, "head_dim": 6}
_SPARSE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_LOCAL_EXPERTS = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}
_T5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2}
_T5 |= {"num_heads": 2, "dropout_rate": 0.0}
_T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
_BART = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "dropout": 0.0}
_BART |= {"encoder_layers": 2, "encoder_attention_heads": 2, "forced_eos_token_id": None}
_BART |= {"decoder_layers": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}


def _switch(experts: int) -> Any:
    sparse = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    return hf.SwitchTransformersConfig(**_IDS, **_T5, **sparse, num_experts=experts)


_CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**_IDS, **_GPT2),
    "gpt2-untied": lambda: hf.GPT2Config(**_IDS, **_GPT2, **_UNTIED),
    "gpt-neo": lambda: hf.GPTNeoConfig(
        **_IDS,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_position_embeddings=32,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
    ),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**_IDS, **_SIZES),
    "opt": lambda: hf.OPTConfig(**_IDS, **_OPT, word_embed_proj_dim=16),
    "opt-projected": lambda: hf.OPTConfig(
        **_IDS, **_OPT, word_embed_proj_dim=12, do_layer_norm_before=False
    ),
    "bloom": lambda: hf.BloomConfig(**_IDS, hidden_size=16, n_layer=2, n_head=2),
    "phi": lambda: hf.PhiConfig(**_IDS, **_SIZES, resid_pdrop=0.0),
    "llama": lambda: hf.LlamaConfig(**_IDS, **_GROUPED),
    "llama-biased": lambda: hf.LlamaConfig(
        **_IDS, **_GROUPED, **_TIED, attention_bias=True, mlp_bias=True
    ),
    "qwen2": lambda: hf.Qwen2Config(**_IDS, **_GROUPED, **_TIED),
    "qwen3": lambda: hf.Qwen3Config(**_IDS, **_GROUPED, head_dim=6),
    "gemma": lambda: hf.GemmaConfig(**_IDS, **_GROUPED, **_TIED, head_dim=6),
    "gemma2": lambda: hf.Gemma2Config(
        **_IDS,
        **_GROUPED,
        **_TIED,
        **_SLIDING,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=2.0,
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(**_IDS, **_GROUPED, **_TIED, **_SLIDING),
    "cohere": lambda: hf.CohereConfig(**_IDS, **_GROUPED, use_qk_norm=True),
    "mamba": lambda: hf.MambaConfig(**_IDS, hidden_size=16, state_size=4, num_hidden_layers=2),
    "mixtral": lambda: hf.MixtralConfig(**_IDS, **_GROUPED, **_LOCAL_EXPERTS),
    "qwen2-moe": lambda: hf.Qwen2MoeConfig(
        **_IDS, **_GROUPED, **_SPARSE, shared_expert_intermediate_size=20
    ),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(**_IDS, **_GROUPED, **_SPARSE, head_dim=6),
    "gpt-oss": lambda: hf.GptOssConfig(**_IDS, **_GROUPED, **_LOCAL_EXPERTS, head_dim=6),
    "t5": lambda: hf.T5Config(**_IDS, **_T5),
    "mt5": lambda: hf.MT5Config(**_IDS, **_T5, feed_forward_proj="gated-gelu"),
    "switch": lambda: _switch(EXPERTS),
    "switch-two": lambda: _switch(2),
    "bart": lambda: hf.BartConfig(**_IDS, **_BART),
}


class _LowRank(nn.Module):
    """A frozen linear map and a trainable one of rank 3 beside it (Hu et al. 2022, eq. 3)."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, 3, bias=False)
        self.up = nn.Linear(3, frozen.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x) + 2 * self.up(self.down(x))


def _low_rank(model: Any) -> Any:
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.v_proj = _LowRank(layer.self_attn.v_proj)
        layer.mlp.down_proj = _LowRank(layer.mlp.down_proj)
    return model


def _lora(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "v_proj", "down_proj"]
    return peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets))


class _Gain(torch.autograd.Function):
    """x ⊙ w with a backward pass of its own, as fused layers have."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, gain)
        return x * gain

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, gain = ctx.saved_tensors
        return upstream * gain, (upstream * x).flatten(0, -2).sum(0)


class _Fused(nn.Module):
    """A norm and one more gain, which only autograd knows how to differentiate."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.gain = nn.Parameter(torch.empty(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Gain.apply(self.norm(x), self.gain)


def _fused(model: Any) -> Any:
    model.model.norm = _Fused(model.model.norm)
    return model


def _own_head(model: Any) -> Any:
    """As mT5 and T5 1.1 come from their checkpoints, whatever their configuration says."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def _freezing(*prefixes: str) -> Callable[[Any], Any]:
    def freeze(model: Any) -> Any:
        for name, weight in model.named_parameters():
            weight.requires_grad_(not name.startswith(prefixes))
        return model

    return freeze


def _only(prefix: str) -> Callable[[Any], Any]:
    def thaw(model: Any) -> Any:
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith(prefix))
        return model

    return thaw


# Name → what it starts from, what is done to it.
_VARIANTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mt5": ("mt5", _own_head),
    "llama-low-rank": ("llama", _low_rank),
    "llama-lora": ("llama", _lora),
    "llama-fused": ("llama", _fused),
    "llama-frozen-embeddings": ("llama", _freezing("model.embed_tokens")),
    "gpt2-frozen-embeddings": ("gpt2", _freezing("transformer.wte", "transformer.wpe")),
    "gpt2-frozen-layer": ("gpt2", _freezing("transformer.h.0")),
    "qwen3-frozen-below": ("qwen3", _freezing("model.embed_tokens", "model.layers.0")),
    "bart-frozen-encoder": ("bart", _freezing("model.shared", "model.encoder")),
    "switch-experts": ("switch-two", _only("encoder.block.1")),
}
NAMES = tuple(dict.fromkeys((*_CONFIGS, *_VARIANTS)))
SPARSE = ("mixtral", "qwen2-moe", "qwen3-moe", "gpt-oss", "switch")  # with ``EXPERTS`` experts


def build(name: str, *, scale: float = 0.3, attention: str | None = None) -> Any:
    """The model in evaluation mode.

    ``scale`` is the weights' standard deviation: 0.3 makes every layer bend the loss. ``attention``
    is an implementation as transformers names it, theirs by default.
    """
    base, change = _VARIANTS.get(name, (name, lambda model: model))
    config = _CONFIGS[base]()
    auto = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation=attention)
    if base in SPARSE[:-1]:  # the default is a grouped product, which has no float64 on a CPU
        model.set_experts_implementation("eager")
    model = change(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            around_one = weight.dim() == 1 and not parameter_name.endswith("bias")
            weight.copy_(scale * noise + around_one)
    return model


def probes(count: int = 6, seed: int = 0) -> list[Example]:
    """Prompts of 3 … 9 tokens and completions of 1 … 6, the first the shortest, the last the
    longest.

    Token 0 stands in a prompt and ends every completion, like an end of text that is the padding,
    too.
    """
    generator = np.random.default_rng(seed)

    def tokens(length: int) -> list[int]:
        return generator.integers(1, VOCABULARY, length).tolist()

    between = [(generator.integers(3, 10), generator.integers(1, 7)) for _ in range(count - 2)]
    lengths = [(3, 1), *between, (9, 6)]
    found = [Example(tokens(prompt), [*tokens(size - 1), 0]) for prompt, size in lengths]
    return [Example([*found[0].prompt[:1], 0, 5], found[0].completion), *found[1:]]


class _Float64(TorchFunctionMode):
    """Whoever asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Norms, softmax, scans and routers too, which transformers takes in float32 otherwise."""
    routers = [m for m in model.modules() if vars(m).get("dtype") is torch.float32]
    for router in routers:
        router.dtype = torch.float64
    try:
        with _Float64():
            yield
    finally:
        for router in routers:
            router.dtype = torch.float32

"""Limits of the shapes in a config.json, checked before transformers builds a model of them.

A huge number of layers, experts or labels takes hours or all memory, even on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lensllm.core.errors import ModelError
from lensllm.core.untrusted import shown

MOST_WEIGHTS = 10**14  # ten times what is counted for the largest language models
_MOST_MODULES = 100_000  # layers times experts, where each expert is a module
# Positions times width in families that compute the table of positions number by number.
_MOST_SINUSOIDS = 2**26
_SINUSOIDAL = ("marian", "pegasus", "pegasus_x", "ctrl", "xlm", "flaubert", "fsmt", "m2m_100",
               "xglm", "blenderbot", "bigbird_pegasus", "speech_to_text", "reformer")  # fmt: skip

# Kind of number → least, most, and the keys that architectures have for it.
_KINDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "layers": (0, 1_000, (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
        "decoder_layers", "num_encoder_layers", "num_decoder_layers", "num_hidden_groups",
        "inner_group_num", "num_nextn_predict_layers", "attention_types", "num_blocks",
    )),
    "width": (1, 2**20, (
        "hidden_size", "n_embd", "d_model", "dim", "model_dim", "embedding_size", "hidden_dim",
        "word_embed_proj_dim", "head_dim", "d_kv", "state_size", "emb_dim",
    )),
    "inner": (1, 2**24, (
        "intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim",
        "ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size",
    )),
    "heads": (1, 2**14, (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_key_value_heads", "num_kv_heads", "kv_n_heads",
    )),
    "vocabulary": (1, 2**24, ("vocab_size", "src_vocab_size", "tgt_vocab_size",
                              "decoder_vocab_size")),
    "positions": (-1, 2**24, ("max_position_embeddings", "n_positions", "n_ctx")),
    "experts": (0, 2**15, (
        "num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts",
        "moe_num_experts",
    )),
    "labels": (0, 10**6, ("num_labels",)),
}  # fmt: skip
_KIND_OF = {key: kind for kind, (_, _, keys) in _KINDS.items() for key in keys}


def check(settings: Mapping[str, Any], where: str) -> None:
    """Raise ``ModelError`` for a shape that no language model has."""
    found = _shapes(settings, where)
    weights = _weights(found)
    if weights > MOST_WEIGHTS:
        raise ModelError(
            f"{where}: its config.json is of a model of about {weights:.0e} weights, of at most "
            f"{MOST_WEIGHTS:.0e}; download it again"
        )
    modules = sum(found["layers"]) * max(found["experts"], default=1)
    if modules > _MOST_MODULES and settings.get("model_type") != "doge":  # its are rows of a table
        raise ModelError(
            f"{where}: its config.json is of a model of {modules:,} layers and experts, of at most "
            f"{_MOST_MODULES:,}; download it again"
        )
    table = max(found["positions"], default=0) * max(found["width"], default=1)
    if settings.get("model_type") in _SINUSOIDAL and table > _MOST_SINUSOIDS:
        raise ModelError(
            f"{where}: its config.json has {max(found['positions']):,} positions, too many for "
            f"'{settings['model_type']}'; download it again"
        )


def check_context(context: Any, max_tokens: int, where: str) -> None:
    """Raise ``ModelError`` if a model reads ``context`` tokens and examples are longer."""
    if isinstance(context, int) and 0 < context < max_tokens:
        raise ModelError(
            f"{where} reads at most {context} tokens and data.max_tokens is {max_tokens}; "
            f"lower it to {context} for all, or leave the candidate out"
        )


def weights(settings: Mapping[str, Any], where: str) -> float:
    """An upper estimate of a model's number of weights."""
    return _weights(_shapes(settings, where))


def _weights(found: Mapping[str, list[int]]) -> float:
    width = max(found["width"], default=1)
    inner = max([4 * width, *found["inner"]])
    experts = max([1, *found["experts"]])
    layer = 8.0 * width * width + 3.0 * width * inner * experts
    return sum(found["layers"]) * layer + 2.0 * width * max(found["vocabulary"], default=1)


def _shapes(settings: Mapping[str, Any], where: str) -> dict[str, list[int]]:
    """The numbers of each kind, at any depth of the settings."""
    found: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    for key, value in _numbers(settings):
        kind = _KIND_OF[key]
        least, most, _ = _KINDS[kind]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ModelError(
                f"{where}: its config.json has {key} = {shown(value)}, which must be a whole "
                f"number from {least} to {most:,}; download it again"
            )
        found[kind].append(value)
    return found


def _numbers(settings: Any) -> Iterator[tuple[str, Any]]:
    """Keys of shapes with their values; each item of a list, and nothing for null."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif key in _KIND_OF:
            waiting = [value]
            while waiting:
                one = waiting.pop()
                if isinstance(one, list):
                    waiting += one
                elif one is not None and not (key == "attention_types" and isinstance(one, str)):
                    yield key, one

"""Load a candidate: safetensors only, no remote code, float32 weights, the best device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.activations import GELUTanh, NewGELUActivation

from lensllm.core.errors import ModelError
from lensllm.core.untrusted import is_panic, short
from lensllm.models import checkpoint, gguf


def load_model(
    folder: Path, attention: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """The causal or encoder-decoder model in ``folder``, in evaluation mode.

    ``attention`` is transformers' name of an implementation. Raises ``ModelError`` if the folder
    holds no complete safetensors checkpoint with finite weights.
    """
    config = load_config(folder)
    if checkpoint.may_claim_too_much(folder):
        with torch.device("meta"):
            checkpoint.check_weights(folder, count_parameters(from_config(config)))
    try:
        model, found = _auto(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors and the architectures each raise their own
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{folder} has no weights for {len(missing)} tensors of a {type(model).__name__}, "
            f"{missing[0]} among them, which would be random; it is not such a checkpoint"
        )
    if name := weight_not_finite(model):
        raise ModelError(f"{folder} is damaged: its weight {name} is not finite; get it again")
    return fuse_activations(model).eval()


def weight_not_finite(model: Any) -> str:
    """Name of the first weight with NaN or infinity; empty if there is none."""
    return next((n for n, weight in model.named_parameters() if not weight.isfinite().all()), "")


def from_config(config: Any) -> Any:
    """A float32 model with fresh weights; inside ``torch.device("meta")`` it takes no memory.

    Raises ``ModelError`` for a configuration that its architecture cannot have.
    """
    try:
        return _auto(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # each architecture raises its own for shapes that do not fit
        where = getattr(config, "name_or_path", "") or type(config).__name__
        raise ModelError(
            f"{where}: no model can be built of its config.json ({_first_line(error)})"
        ) from error


def model_class(config: Any) -> type:
    """The class of models of the transformers ``config``."""
    kind: type = _auto(config)._model_mapping[type(config)]
    return kind


def load_config(folder: Path) -> Any:
    """The transformers configuration of a language model in ``folder`` or a .gguf file.

    Raises ``ModelError`` for any other architecture.
    """
    place, more = folder, {}
    if folder.suffix == gguf.SUFFIX and folder.is_file():
        place, more = folder.parent, {"gguf_file": folder.name}
    try:
        config = AutoConfig.from_pretrained(
            place, local_files_only=True, trust_remote_code=False, **more
        )
    except Exception as error:  # wrong types raise whatever comes first
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{folder} needs Python code of its own, which is never run; take a model that "
                "transformers has"
            ) from error
        raise ModelError(f"{folder}: {_first_line(error)}") from error
    if type(config) not in _auto(config)._model_mapping:
        raise ModelError(
            f"{folder}: transformers has no language model for '{config.model_type}'; "
            "take a causal or encoder-decoder one"
        )
    return _completed(config, folder)


def _auto(config: Any) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _completed(config: Any, folder: Path) -> Any:
    """``config`` with the token ids that batches need; many checkpoints leave them out."""
    pad = getattr(config, "pad_token_id", None)
    config.pad_token_id = pad  # some configurations do not have it at all
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        start = checkpoint.generation(folder).get("decoder_start_token_id")
        choices = (start, pad, getattr(config, "bos_token_id", None))
        config.decoder_start_token_id = next((i for i in choices if isinstance(i, int)), None)
        if config.decoder_start_token_id is None:
            raise ModelError(
                f"{folder}: no token begins what its decoder writes; set decoder_start_token_id in "
                "its config.json"
            )
    return config


def check_vocabulary(model: Any, largest: int, folder: Path) -> None:
    """Raise ``ModelError`` unless token ``largest`` has an embedding; spare ones do no harm."""
    known = model.get_input_embeddings().weight.shape[0]
    if largest >= known:
        raise ModelError(
            f"{folder}: its tokenizer writes token {largest} and the model has embeddings for "
            f"{known} only; they do not belong together"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``; it must have an end-of-text token to end completions with."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except BaseException as error:  # each kind of tokenizer raises its own for a missing file
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded ({_first_line(error)})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: its tokenizer has no end-of-text token; set eos_token")
    return tokenizer


def choose_device(wanted: str) -> torch.device:
    """The torch device; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises ``ModelError`` if this machine has no such device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if cuda else "mps" if mps else "cpu"
    elif (wanted == "cuda" and not cuda) or (wanted == "mps" and not mps):
        raise ModelError(
            f"engine.device: no {wanted.upper()} device here; set engine.device=auto or cpu"
        )
    return torch.device(wanted)


def count_parameters(model: Any) -> int:
    """Number of distinct weights; a tied head counts once."""
    return sum(p.numel() for p in model.parameters())


def count_trainable(model: Any) -> int:
    """Number of weights that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().split("\n", 2)
    text = " ".join(line.strip() for line in lines[:2]) if lines[0].endswith(":") else lines[0]
    return short(text or type(error).__name__, 300)


def fuse_activations(model: Any) -> Any:
    """Replace GPT-2's "gelu_new" by torch's own kernel, the same function but for rounding.

    Written out, it costs small models 4 to 11 % of their time and 5 to 18 % of their memory.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, GELUTanh())
    return model

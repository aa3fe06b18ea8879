"""Checkpoints as transformers saves them, and what is none of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from lensllm.core.errors import ModelError
from lensllm.models import load
from lensllm.models.batch import collate, token_losses
from lensllm.models.zoo import tokenizer
from tests.lensllm import families


def save(name: str, folder: Path, **options: Any) -> Path:
    families.build(name).float().save_pretrained(folder, **options)
    return folder


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.mark.parametrize(
    "name",
    ["gpt2", "gpt-neo", "bloom", "gemma2", "mamba", "mixtral", "gpt-oss", "t5", "switch", "bart"],
)
def test_what_was_saved_has_the_same_losses(name: str, tmp_path: Path):
    model = families.build(name).float()
    model.save_pretrained(tmp_path)
    loaded = load.load_model(tmp_path)
    batch = collate(families.probes(), loaded.config)
    torch.testing.assert_close(token_losses(loaded, batch), token_losses(model, batch))


def test_shards_make_one_model(tmp_path: Path):
    whole = save("llama", tmp_path / "whole")
    split = save("llama", tmp_path / "split", max_shard_size="10KB")
    assert len(list(split.glob("*.safetensors"))) > 1
    weights = [dict(load.load_model(folder).named_parameters()) for folder in (whole, split)]
    assert all(torch.equal(weights[0][name], weight) for name, weight in weights[1].items())


@pytest.mark.parametrize("name", ["llama", "t5", "bart"])
def test_a_configuration_that_says_nothing_of_padding_still_makes_batches(
    name: str, tmp_path: Path
):
    save(name, tmp_path)
    change(tmp_path, pad_token_id=None, eos_token_id=None)
    loaded = load.load_model(tmp_path)
    losses = token_losses(loaded, collate(families.probes(), loaded.config))
    assert losses.isfinite().all()


def test_a_decoder_begins_as_the_generation_settings_say(tmp_path: Path):
    save("t5", tmp_path)
    change(tmp_path, decoder_start_token_id=..., pad_token_id=5)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 7}')
    assert load.load_config(tmp_path).decoder_start_token_id == 7
    (tmp_path / "generation_config.json").unlink()
    assert load.load_config(tmp_path).decoder_start_token_id == 5
    change(tmp_path, pad_token_id=None, bos_token_id=None)
    with pytest.raises(ModelError, match=r"set decoder_start_token_id in its config\.json"):
        load.load_config(tmp_path)


def test_spare_embeddings_do_no_harm_and_missing_ones_are_a_sentence(tmp_path: Path):
    model = load.load_model(save("llama", tmp_path))
    load.check_vocabulary(model, families.VOCABULARY - 1, tmp_path)
    load.check_vocabulary(model, 3, tmp_path)
    with pytest.raises(ModelError, match=r"writes token 48 and the model has embeddings for 48"):
        load.check_vocabulary(model, families.VOCABULARY, tmp_path)


def test_weights_that_are_not_there_are_a_sentence_not_random(tmp_path: Path):
    save("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for 1 tensors .*lm_head.weight among them"):
        load.load_model(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["qwen3", "t5"])
def test_a_checkpoint_with_a_damaged_weight_is_refused(tmp_path: Path, tiny_model, kind, value):
    model = tiny_model(kind).float()
    model.save_pretrained(tmp_path)
    name = list(dict(model.named_parameters()))[3]
    assert load.load_model(tmp_path).get_parameter(name).isfinite().all()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1:].fill_(value)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path} is damaged: its weight {name} is not finite"):
        load.load_model(tmp_path)


def test_an_encoder_without_a_head_is_a_sentence(tmp_path: Path):
    config = hf.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    hf.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no weights for"):
        load.load_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_type": "vit"}, "transformers has no language model for 'vit'"),
        (
            {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.Mine"}},
            "needs Python code of its own, which is never run",
        ),
        ({"model_type": "of-tomorrow"}, "of-tomorrow"),
    ],
)
def test_what_transformers_cannot_load_is_a_sentence(
    tmp_path: Path, settings: dict[str, Any], sentence: str
):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "configuration_mine.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(ModelError, match=sentence) as caught:
        load.load_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_or_none_at_all_is_a_sentence(tmp_path: Path):
    with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded"):
        load.load_tokenizer(save("llama", tmp_path / "none"))
    bpe = tokenizer.train(["red green blue"] * 3, vocabulary=270)
    bpe.eos_token = None
    bpe.save_pretrained(tmp_path / "endless")
    with pytest.raises(ModelError, match="endless: its tokenizer has no end-of-text token"):
        load.load_tokenizer(tmp_path / "endless")

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lensllm.models.zoo import tokenizer

TEXTS = [f"def grow(tree_{i}, years):\n    return tree_{i} * years\n" for i in range(50)]
TRAINED = tokenizer.train(TEXTS, vocabulary=300)


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    ids = TRAINED.encode(text, add_special_tokens=False)
    assert text == TRAINED.decode(ids) or tokenizer.END_OF_TEXT in text


def test_end_of_text_is_the_only_special_token() -> None:
    ends = (TRAINED.bos_token_id, TRAINED.eos_token_id, TRAINED.pad_token_id)
    assert ends == (0, 0, 0)
    assert TRAINED.unk_token_id is None
    assert TRAINED.all_special_ids == [0]


def test_no_token_is_added_and_frequent_words_are_merged() -> None:
    assert len(TRAINED) == 300
    assert [TRAINED.decode([i]) for i in TRAINED.encode(" years")] == [" years"]
    assert TRAINED.encode("def") + TRAINED.encode(" grow") == TRAINED.encode("def grow")


def _files(trained: PreTrainedTokenizerFast, folder: Path) -> dict[str, bytes]:
    trained.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    again = tokenizer.train(iter(TEXTS), vocabulary=300)
    assert _files(TRAINED, tmp_path / "a") == _files(again, tmp_path / "b")


@pytest.mark.parametrize("text", ["def grow(tree_1, years):", "Æ ☃ \n\t  two  spaces"])
def test_loads_as_saved(tmp_path: Path, text: str) -> None:
    TRAINED.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert TRAINED.encode(text) == loaded.encode(text)
    assert text == loaded.decode(loaded.encode(text))

from dataclasses import replace

import pytest

from lensllm.diagnostics.checks.tokenizers import find

ONE = dict.fromkeys("abcdef", "x")


@pytest.mark.parametrize(
    ("tokenizers", "reason"),
    [
        ({**ONE, "c": "y"}, "and the 6 candidates have 2 tokenizers;"),
        ({"a": "x", "b": "y"}, "and the 6 candidates have 2 tokenizers;"),
        ({"a": "x", "b": "x"}, "and whether these candidates do is not known;"),
        ({**ONE, "c": ""}, "and whether these candidates do is not known;"),
        (None, "and whether these candidates do is not known;"),
    ],
)
def test_losses_per_token_need_one_tokenizer(clean, tokenizers, reason):
    (found,) = find(replace(clean, metric="nats_per_token", tokenizers=tokenizers))

    assert found.candidate == ""
    assert reason in found.message


def test_one_tokenizer_is_one_unit(clean):
    assert find(replace(clean, metric="nats_per_token", tokenizers=ONE)) == []


def test_tokenizers_of_others_do_not_count(clean):
    others = ONE | {"elsewhere": "y"}

    assert find(replace(clean, metric="nats_per_token", tokenizers=others)) == []


def test_bytes_are_the_same_for_all(clean):
    assert find(replace(clean, metric="bits_per_byte", tokenizers=None)) == []

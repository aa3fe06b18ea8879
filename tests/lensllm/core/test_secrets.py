"""Credentials are masked wherever they stand, and nothing else is."""

import pytest

from lensllm.config.sections import Pipeline, public
from lensllm.core.secrets import has_password, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pass@host:5000/x", "http://***@host:5000/x"),
        (
            "postgresql://me:p@ss@host/db and https://token@host",
            "postgresql://***@host/db and https://***@host",
        ),
        (
            '{"uri": "http://me:pass@host", "mail": "a@b"}',
            '{"uri": "http://***@host", "mail": "a@b"}',
        ),
        ("hub:org/name@main of https://host/path@1", "hub:org/name@main of https://host/path@1"),
    ],
)
def test_addresses_lose_user_and_password(text: str, masked: str) -> None:
    assert masked == mask(text)


def test_the_environments_tokens_are_masked_and_its_other_values_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("OTHER_TOKEN", "true")
    monkeypatch.setenv("HF_HOME", "/somewhere/else")
    said = "hf_0123456789, correct horse, true, /somewhere/else"
    assert mask(said) == "***, ***, true, /somewhere/else"


def test_a_password_is_told_from_a_user_alone() -> None:
    assert has_password("http://me:pass@host")
    assert not has_password("http://me@host:5000/a:b")


def test_the_configuration_that_is_shown_has_no_credentials() -> None:
    shown = public(
        Pipeline.model_validate(
            {
                "candidates": ["org/name"],
                "data": {"source": "https://me:pass@host/rows.jsonl"},
                "tracking": {"uri": "http://me:pass@host"},
            }
        )
    )
    assert shown["data"]["source"] == "https://***@host/rows.jsonl"
    assert shown["tracking"]["uri"] == "http://***@host"

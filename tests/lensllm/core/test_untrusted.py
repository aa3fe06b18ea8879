"""Reading what somebody else wrote: limits of depth, digits, size and characters."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core import untrusted
from lensllm.core.untrusted import MOST_LEVELS, UnreadableError, parse_json, parse_yaml

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(plain)
def test_what_json_writes_is_read_as_it_was(value: Any):
    assert value == parse_json(json.dumps(value))


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}")])
def test_the_limit_of_depth_is_that_of_the_text(parse: Any, begin: str, end: str):
    levels = MOST_LEVELS if parse is parse_json else MOST_LEVELS - 1  # a scalar is a node in YAML
    parse(begin * levels + "1" + end * levels)
    for more in (levels + 1, 500, 100_000):
        with pytest.raises(UnreadableError, match="nested more than 100 deep"):
            parse(begin * more + "1" + end * more)


def test_brackets_in_a_text_are_not_depth():
    assert parse_json(json.dumps(["[{" * 1000])) == ["[{" * 1000]


def test_aliases_multiply_depth():
    chain = "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 150))
    with pytest.raises(UnreadableError, match="nested more than 100 deep"):
        parse_yaml("a0: &a0 [x]\n" + chain)


@pytest.mark.parametrize(
    ("text", "sentence", "line"),
    [
        ("a: 1\na: 2", "key 'a' is written twice", 2),
        ("a: {b: 1, b: 2}", "key 'b' is written twice", 1),
        ("- 1\n- 2024-13-45", "'2024-13-45' cannot be read as timestamp", 2),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor", 1),
        ("? [a]\n: b", "a value cannot be read as map", 1),
        ("a: \x01", "special characters are not allowed", None),
    ],
)
def test_yaml_that_cannot_be_read_says_where(text: str, sentence: str, line: int | None):
    with pytest.raises(UnreadableError, match=sentence) as caught:
        parse_yaml(text)
    assert line == caught.value.line


def test_a_file_is_read_up_to_its_limit(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("[1, 2]")
    assert untrusted.read_json(path, 6) == [1, 2]
    with pytest.raises(UnreadableError, match="more than 5 bytes"):
        untrusted.read_json(path, 5)


def test_a_value_is_shown_short():
    deep: Any = 1
    for _ in range(90):
        deep = [deep, "x" * 1000]
    assert len(untrusted.shown(deep)) < 2000
    assert untrusted.shown("word") == "'word'"
    assert untrusted.short("x" * 90) == "x" * 79 + "…"

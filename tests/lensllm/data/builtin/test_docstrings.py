"""Mining is checked on a package whose right answer is written here, and on the standard library."""

import platform
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.data.builtin import docstrings, python_files

SOURCE = '''"""A module about trees.

Trees grow slowly, and every one of them needs water and light.
"""
raise RuntimeError("mining must not run what it reads")


class Tree:
    """A tree that grows in the wood behind the house.

    It is older than the house, as everybody in the village knows.
    """

    async def grow(self, years: int = 1, *rest: str) -> float:
        # a comment in the code
        """Grow for some years, e.g. until it is tall. Then stop.

        The height is returned in metres above the ground of the wood.
        """
        return 1.0 * years

    def twice(self):
        """Grow for some years, e.g. until it is tall. And again."""


def short():
    """Nothing."""


if True:
    def guarded(x):
        """Guard the
        wood at night
        """
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package ``minedtrees`` with one module worth reading."""
    folder = tmp_path / "minedtrees"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(SOURCE)
    (folder / "broken.py").write_text("def template({{ name }}):\n")
    (folder / "tests" / "__init__.py").write_text('def t():\n    """Check that trees do grow."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_signature_and_first_sentence_of_every_function(package: Path) -> None:
    mined = docstrings.pairs([package.name])
    prompts = [
        'async def grow(self, years: int=1, *rest: str) -> float:\n    """',
        'def guarded(x):\n    """',
    ]
    assert prompts == mined["prompt"].tolist()
    completions = ["Grow for some years, e.g. until it is tall.", "Guard the wood at night"]
    assert completions == mined["completion"].tolist()
    assert package.name not in sys.modules


def test_at_most_eight_completions_of_a_package_begin_alike(package: Path) -> None:
    many = "\n".join(f'def f{i}():\n    """Return the name of tree {i}."""' for i in range(20))
    (package / "names.py").write_text(many)
    completions = docstrings.pairs([package.name])["completion"]
    assert completions.str.startswith("Return the name of").sum() == docstrings.SAME_OPENING_MAX


@pytest.mark.parametrize("name", ["no_such_package_at_all", "os.path", "sys", "hollow", ""])
def test_unknown_package_is_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hollow", ModuleType("hollow"))  # loaded, without a spec
    with pytest.raises(DataError, match=f"there are no Python sources of package '{name}'"):
        docstrings.pairs([name])
    with pytest.raises(DataError, match="there are no Python"):
        python_files.fingerprint([name])


@given(st.text())
def test_first_sentence_is_one_line_from_the_start(text: str) -> None:
    sentence = docstrings.first_sentence(text)
    if sentence is not None:
        assert " ".join(text.split()).startswith(sentence)
        assert sentence == docstrings.first_sentence(sentence)


def test_standard_library_fills_the_demo() -> None:
    mined = docstrings.pairs([python_files.STDLIB])
    splits = Counter(mined["split"])
    assert splits["train"] >= 1_600 + 200
    assert splits["test"] >= 500
    assert mined["completion"].is_unique
    names = mined["prompt"].str.extract(r"def (\w+)")[0]
    assert not set(names[mined["split"] == "train"]) & set(names[mined["split"] == "test"])


def test_earlier_packages_do_not_depend_on_later_ones() -> None:
    alone, both = docstrings.pairs(["email"]), docstrings.pairs(["email", "json"])
    assert alone.equals(both.head(len(alone)))
    assert len(both) > len(alone)


def test_texts_hold_the_rest_but_never_the_first_paragraph(package: Path) -> None:
    texts = docstrings.texts([package.name])
    grown = texts.groupby("kind")["text"].agg("\n".join)
    assert {"docs", "reference", "prose", "code"} == set(grown.index)
    height = "The height is returned in metres above the ground of the wood."
    expected = 'async def grow(self, years: int=1, *rest: str) -> float:\n    """' + height
    assert expected in grown["docs"]
    assert height in grown["prose"]
    assert "async def grow" not in grown["prose"]
    assert "return 1.0 * years" in grown["code"]
    assert "# a comment in the code" in grown["code"]
    assert height not in grown["code"]
    for target in ("Grow for some years", "A tree that grows", "about trees", "wood at night"):
        assert not texts["text"].str.contains(target).any()


def test_texts_stop_at_the_cap_and_repeat() -> None:
    first, second = (docstrings.texts(["email"], cap_characters=20_000) for _ in range(2))
    assert first.equals(second)
    for _, texts in first.groupby("kind"):
        assert texts["text"].iloc[:-1].str.len().sum() < 20_000


def test_fingerprint_names_versions_or_content(package: Path) -> None:
    marks = python_files.fingerprint(["stdlib", "numpy", package.name])
    assert ["python", "numpy", package.name] == list(marks)
    assert platform.python_version() == marks["python"]
    assert version("numpy") == marks["numpy"]
    (package / "broken.py").write_text("")
    assert marks[package.name] != python_files.fingerprint([package.name])[package.name]


def test_everything_the_texts_are_made_of_has_a_fingerprint() -> None:
    expected = {"python", *docstrings.TEXT_SOURCES} - {python_files.STDLIB}
    assert expected == set(python_files.fingerprint(docstrings.TEXT_SOURCES))

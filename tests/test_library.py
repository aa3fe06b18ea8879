"""``import lensllm``: the public names, what they need, and that the documentation has them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lensllm

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "prefect", "mlflow", "pyarrow", "pydantic", "matplotlib"}
OF_TABLES = "read_curves", "Curves", "fit_law", "predict", "rank_curves", "score_ranking"


def loaded(code: str) -> set[str]:
    """The top-level packages that a new process has loaded after ``code``."""
    code = f"import sys; {code}; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_loads_nothing_else() -> None:
    assert not loaded("import lensllm") & {*HEAVY, "numpy", "pandas", "scipy"}


def test_tables_of_losses_need_no_model_and_no_server() -> None:
    found = loaded(f"from lensllm import {', '.join(OF_TABLES)}")
    assert not found & (HEAVY - {"pyarrow"})  # which pandas itself loads


@pytest.mark.parametrize("name", lensllm.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(lensllm, name)
    assert name in dir(lensllm)
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return  # the registry of predictors, whose comment the source has
    text = inspect.getdoc(thing)
    assert text
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert not first.startswith(("Of ", "Who ", "What ", "How ", "Whether "))
    if inspect.isfunction(thing):
        assert "Raises" in text
        assert ">>>" in text


def test_about_a_dozen_names() -> None:
    assert 12 <= len(lensllm.__all__) <= 18
    assert len(set(lensllm.__all__)) == len(lensllm.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rnak'"):
        lensllm.rnak  # noqa: B018

"""What tests of several stages begin with."""

from pathlib import Path

import pytest

from lensllm.store.artifacts import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty artifacts folder of the test's own."""
    made = Store(tmp_path / "artifacts")
    made.prepare()
    return made

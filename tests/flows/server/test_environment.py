"""The settings reach Prefect, yield to the user's, and cost no import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.server.environment import prefect_home

_ASK = """
import json, sys
from pathlib import Path
from flows.server.environment import prepare

prepare(Path(sys.argv[1]))
early = sorted({"prefect", "mlflow", "torch", "transformers"} & sys.modules.keys())
from prefect.settings import get_current_settings

settings = get_current_settings()
print(json.dumps({
    "imported": early,
    "home": str(settings.home),
    "ephemeral": settings.server.ephemeral.enabled,
    "analytics": settings.server.analytics_enabled,
    "persist": settings.results.persist_by_default,
    "leases": settings.server.concurrency.lease_storage,
    "level": settings.logging.level,
}))
"""


def test_each_user_of_a_shared_folder_has_a_server_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefect_home(tmp_path) == tmp_path / "prefect"  # who comes first
    (tmp_path / "prefect").mkdir()
    assert prefect_home(tmp_path) == tmp_path / "prefect"
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert prefect_home(tmp_path) == tmp_path / f"prefect-{me + 1}"


def test_prefect_is_told_unless_the_user_said_otherwise(tmp_path: Path) -> None:
    environment = {"PATH": "", "PREFECT_LOGGING_LEVEL": "DEBUG"}
    answer = subprocess.run(
        [sys.executable, "-c", _ASK, str(tmp_path)],
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(answer.stdout) == {
        "imported": [],
        "home": str(tmp_path / "prefect"),
        "ephemeral": False,
        "analytics": False,
        "persist": False,
        "leases": "prefect.server.concurrency.lease_storage.filesystem",
        "level": "DEBUG",
    }


_WRITE = """
import sys
from pathlib import Path
from flows.server.environment import prefect_home, restrict
from lensllm.store.artifacts import Store

restrict(Path(sys.argv[1]))
store = Store(Path(sys.argv[1]))
store.prepare()
(store.root / "file").write_text("x")
(store.root / "folder").mkdir()
"""


@pytest.mark.parametrize(
    ("before", "modes"),
    [
        (None, (0o700, 0o600, 0o700)),
        (0o755, (0o755, 0o600, 0o700)),  # as a checkout has it
        (0o770, (0o770, 0o660, 0o770)),
        (0o2775, (0o2775, 0o660, 0o2770)),
    ],
    ids=["new", "of one user", "of a group", "of a group, inherited"],
)
def test_what_is_written_is_private_or_its_groups(
    tmp_path: Path, before: int | None, modes: tuple[int, int, int]
) -> None:
    root = tmp_path / "artifacts"
    if before is not None:
        root.mkdir()
        root.chmod(before)
    subprocess.run([sys.executable, "-c", _WRITE, str(root)], check=True, umask=0o022)
    paths = (root, root / "file", root / "folder")
    assert modes == tuple(path.stat().st_mode & 0o7777 for path in paths)

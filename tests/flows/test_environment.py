"""The settings reach Prefect, yield to the user's, and cost no import."""

import json
import subprocess
import sys
from pathlib import Path

_ASK = """
import json, sys
from pathlib import Path
from flows.environment import prepare

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

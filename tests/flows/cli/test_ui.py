"""``lensllm ui``: both pages load, Ctrl-C ends both servers, a port in use is a sentence."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from flows.cli.ui import serve
from lensllm.core.errors import ConfigError
from tasks.execution.tracking import Tracker
from tests.waiting import HANG_SECONDS, ends

_SERVE = """
import sys
from pathlib import Path
from flows.server.environment import prepare
from flows.cli.ui import serve

prepare(Path(sys.argv[1]))
serve(Path(sys.argv[1]))
print("ended")
"""


def test_both_pages_are_served_until_ctrl_c(home: Path) -> None:
    artifacts = home.parent
    mlflow = Tracker(f"sqlite:///{artifacts / 'mlflow.db'}", "demo", "key", "demo", {})
    mlflow.finish({"regret": 0.0}, [])
    mlflow.close()
    beside = artifacts / "beside"  # a folder whose files have the names of ours
    for name in ("flows", "tasks", "lensllm"):
        (beside / name).mkdir(parents=True)
        (beside / name / "__init__.py").write_text("raise SystemExit('taken for ours')")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE, artifacts],
        cwd=beside,
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        lines = [command.stdout.readline().split() for _ in range(2)]
        assert "once" in command.stdout.readline()
        children = [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
        pages = dict(lines)
        assert set(pages) == {"Prefect:", "MLflow:"}
        found = "ajax-api/2.0/mlflow/experiments/search?max_results=9"
        for name, path in (("Prefect:", "v2/"), ("MLflow:", ""), ("MLflow:", found)):
            page = f"{pages[name].partition('/open/')[0]}/{path}"
            with pytest.raises(HTTPError, match="401"):
                get(page)
            if path == "":  # the others' links stay good
                basic = re.search(rb'password", "([^"]+)"', get(pages[name]))
                assert basic is not None
        assert b"<html" in get(f"{page.partition('ajax')[0]}", basic[1].decode()).lower()
        experiments = json.loads(get(page, basic[1].decode()))["experiments"]
        assert "demo" in {experiment["name"] for experiment in experiments}
        command.send_signal(signal.SIGINT)
        assert command.stdout.read().endswith("ended\n")
    assert command.returncode == 0
    assert len(children) == 2
    assert all(ends(pid) for pid in children)


def get(url: str, basic: str = "") -> bytes:
    headers = {"Authorization": f"Basic {basic}"} if basic else {}
    with urlopen(Request(url, headers=headers), timeout=HANG_SECONDS) as answer:
        content: bytes = answer.read()
    return content


def test_a_port_in_use_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^Port {port} of 127\.0\.0\.1 cannot be used"):
            serve(tmp_path, mlflow_port=port)

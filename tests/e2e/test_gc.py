"""gc --delete and verify --repair beside other commands: whoever uses the folder loses nothing."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensllm.store.artifacts import Store
from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    off = {"enabled": False}
    return write_pipeline(tmp_path_factory.mktemp("gc") / "project", 2, 3, 1, tracking=off)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@contextmanager
def command(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def cells(artifacts: Path) -> set[Path]:
    return set(artifacts.glob("finetune/*/manifest.json"))


def test_who_deletes_is_refused_beside_a_run_that_no_file_names(
    file: Path, artifacts: Path
) -> None:
    where = ("--artifacts", artifacts)
    words = ("run", NAME, "--file", file, *where, "--set", "finetune.learning_rate=2e-2")
    with command(*words) as run:
        wait(lambda: cells(artifacts) or run.poll() is not None, "a cell")
        run.send_signal(signal.SIGSTOP)  # it lives as long as this test looks at it
        listed = lensllm("gc", "--file", file, *where, "--json")
        assert listed.returncode == 0
        assert "finetune" in {a["stage"] for a in json.loads(listed.stdout)["artefacts"]}
        kept = set(artifacts.glob("*/*/manifest.json"))
        for words in (("gc", "--file", file, "--delete"), ("verify", "--repair")):
            refused = lensllm(*words, *where)
            assert refused.returncode == 2
            assert f"'lensllm run {NAME} --file" in refused.stderr
            assert f"(process {run.pid} of " in refused.stderr
            assert "nothing was deleted" in refused.stderr
        assert all(path.exists() for path in kept)
        run.send_signal(signal.SIGCONT)
        said, _ = run.communicate(timeout=HANG_SECONDS)
        assert run.returncode == 0, said
    assert len(cells(artifacts)) == 2 * 3 * 1

    done = lensllm("gc", "--file", file, *where, "--delete")
    assert done.returncode == 0, done.stderr
    assert cells(artifacts) == set()


@pytest.mark.full
def test_a_killed_command_keeps_nobody_from_deleting(file: Path, artifacts: Path) -> None:
    with command("run", NAME, "--file", file, "--artifacts", artifacts) as run:
        wait(lambda: cells(artifacts) or run.poll() is not None, "a cell")
        run.send_signal(signal.SIGKILL)
        run.wait()
    # Its workers die with it, but the kernel may take a moment.
    wait(lambda: delete(file, artifacts) == 0, "gc")
    assert [p.name for p in (artifacts / ".users").iterdir()] == ["lock"]


def delete(file: Path, artifacts: Path) -> int:
    return lensllm("gc", "--file", file, "--artifacts", artifacts, "--delete").returncode


def test_a_command_that_comes_while_somebody_deletes_waits(artifacts: Path) -> None:
    store = Store(artifacts)
    store.prepare()
    with command("verify", "--artifacts", artifacts) as verify:
        assert verify.stdout is not None
        with store.alone("lensllm gc --delete"):
            said = verify.stdout.readline()
            assert "'lensllm gc --delete' (process" in said
            with pytest.raises(subprocess.TimeoutExpired):
                verify.wait(1)
        verify.communicate(timeout=HANG_SECONDS)
        assert verify.returncode == 0


@pytest.mark.full
def test_serve_between_its_runs_keeps_nobody_from_deleting(file: Path, artifacts: Path) -> None:
    with command("serve", NAME, "--file", file, "--artifacts", artifacts) as serve:
        assert serve.stdout is not None
        for line in serve.stdout:
            if "Ctrl-C ends" in line:
                break
        assert serve.poll() is None
        assert delete(file, artifacts) == 0
        assert serve.poll() is None
        serve.send_signal(signal.SIGTERM)
        serve.communicate(timeout=HANG_SECONDS)

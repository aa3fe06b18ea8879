"""What breaks around a command: said, mended by making it again, or refused in a sentence."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.e2e.observe import final_tables
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pipeline's file and the artifacts of a finished run."""
    folder = tmp_path_factory.mktemp("damage")
    file = write_pipeline(folder / "project", 2, 3, 1)
    done = lensllm("run", NAME, "--file", file, "--artifacts", folder / "artifacts")
    assert done.returncode == 0, done.stderr
    return file, folder / "artifacts"


@pytest.fixture
def artifacts(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(finished[1], tmp_path / "artifacts")
    return tmp_path / "artifacts"


def run(file: Path, artifacts: Path) -> subprocess.CompletedProcess[str]:
    return lensllm("run", NAME, "--file", file, "--artifacts", artifacts, "--json")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_finds_every_kind_of_damage_and_repairs_it(
    finished: tuple[Path, Path], artifacts: Path
) -> None:
    whole = lensllm("verify", "--artifacts", artifacts)
    assert whole.returncode == 0
    assert "all as they were written" in whole.stdout

    cells = sorted((artifacts / "finetune").iterdir())
    flip(cells[0] / "cell.parquet")
    (cells[1] / "epochs.parquet").write_bytes(b"")
    (cells[2] / "manifest.json").unlink()
    (next((artifacts / "curve").iterdir()) / "cells.parquet").unlink()
    found = lensllm("verify", "--artifacts", artifacts, "--json")
    assert found.returncode == 1
    faults = {(d["stage"], d["key"]): d["fault"] for d in json.loads(found.stdout)["damaged"]}
    assert len(faults) == 4
    assert faults["finetune", cells[0].name] == "cell.parquet does not match its checksum"
    assert faults["finetune", cells[1].name].startswith("epochs.parquet has 0 bytes instead of")
    assert faults["finetune", cells[2].name] == "its manifest cannot be read"
    assert all(cell.is_dir() for cell in cells)

    assert lensllm("verify", "--artifacts", artifacts, "--repair").returncode == 0
    assert lensllm("verify", "--artifacts", artifacts).returncode == 0
    done = run(finished[0], artifacts)
    assert (done.returncode, json.loads(done.stdout)["computed"]) == (0, 4)
    assert final_tables(finished[1]) == final_tables(artifacts)


def test_a_run_names_each_damage_once_and_computes_what_is_damaged_or_no_folder(
    finished: tuple[Path, Path], artifacts: Path, tmp_path: Path
) -> None:
    cells = sorted((artifacts / "finetune").iterdir())
    flip(cells[0] / "cell.parquet")
    manifest = json.loads((cells[1] / "manifest.json").read_text())
    manifest["params"]["size"] += 1
    (cells[1] / "manifest.json").write_text(json.dumps(manifest))
    elsewhere = shutil.move(cells[2], tmp_path / "elsewhere")
    cells[2].symlink_to(elsewhere)
    (elsewhere / "cell.parquet").unlink()
    for cell, target in (
        (cells[3], "nowhere"),
        (artifacts / ".tmp" / f"finetune-{cells[3].name}", elsewhere),
    ):
        shutil.rmtree(cell, ignore_errors=True)
        cell.symlink_to(target)
    left = sorted(p.name for p in elsewhere.iterdir())

    done = run(finished[0], artifacts)
    assert (done.returncode, json.loads(done.stdout)["computed"]) == (0, 4), done.stderr
    for cell in cells[:4]:
        assert done.stderr.count(f"finetune/{cell.name[:12]} is damaged") == 1
    assert final_tables(finished[1]) == final_tables(artifacts)
    assert left == sorted(p.name for p in elsewhere.iterdir())


def test_broken_databases_are_set_aside_and_filled_again(
    finished: tuple[Path, Path], artifacts: Path
) -> None:
    (artifacts / "prefect" / "prefect.db").write_bytes(b"x" * 10_000)
    flip_page(artifacts / "mlflow.db")
    done = run(finished[0], artifacts)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == 0
    assert "prefect.db is damaged (" in done.stderr
    assert "mlflow.db is damaged (" in done.stderr
    with sqlite3.connect(artifacts / "mlflow.db") as database:
        runs = database.execute("SELECT status FROM runs").fetchall()
    assert runs == [("FINISHED",)] * (6 + 1)


def flip_page(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4096 : 3 * 4096] = b"\xff" * 2 * 4096
    database.write_bytes(content)


@pytest.mark.full
def test_a_deleted_prefect_folder_is_made_again(
    finished: tuple[Path, Path], artifacts: Path
) -> None:
    shutil.rmtree(artifacts / "prefect")
    done = run(finished[0], artifacts)
    assert (done.returncode, json.loads(done.stdout)["computed"]) == (0, 0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 250 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=250m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.full
def test_a_disk_that_fills_up_ends_the_run_with_a_sentence_and_loses_nothing(
    disk: Path, tmp_path: Path
) -> None:
    file = write_pipeline(tmp_path / "project", 3, 4, 8, tracking={"enabled": False})
    artifacts = disk / "artifacts"
    with (tmp_path / "log").open("wb") as log:
        command = subprocess.Popen(
            [*COMMAND, "run", NAME, "--file", str(file), "--artifacts", str(artifacts)],
            cwd=ROOT, env=environment(), stdout=log, stderr=log,
        )  # fmt: skip
    wait(lambda: len(list(artifacts.glob("finetune/*/manifest.json"))) >= 8, "eight cells")
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    assert command.wait(HANG_SECONDS) == 2  # Prefect's server is on the full disk too, and patient
    said = (tmp_path / "log").read_text()
    assert "no space is left on its disk; free some and run the same command again" in said
    assert said.count("failed: finetune") <= 2  # nothing more is begun
    kept = {p: p.stat().st_mtime_ns for p in artifacts.glob("finetune/*/manifest.json")}
    assert 8 <= len(kept) < 96

    filler.unlink()
    done = run(file, artifacts)
    assert done.returncode == 0, done.stderr
    assert kept == {p: p.stat().st_mtime_ns for p in kept}

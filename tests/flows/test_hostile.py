"""``lensllm plan`` with inputs that somebody else made: seconds, one sentence, exit code 2."""

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.cli import main as cli
from lensllm.data import rendering
from tests.tasks import project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline ``p`` with a data file and a candidate ``narrow``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSLLM_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    project.write_inputs(tmp_path, {"narrow": 16})
    settings = {
        "candidates": ["./narrow"],
        "data": {"source": "rows.jsonl", "validation_examples": 10, "test_examples": 20},
        "sweep": {"min": 4, "max": 32, "target": 64},
        "kernel": {"enabled": False},
    }
    settings["data"]["max_tokens"] = 32
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {"p": settings}}))
    return tmp_path


def lensllm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run the command in this process: exit code, standard output and error."""
    monkeypatch.setattr(sys, "argv", ["lensllm", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def change(folder: Path, **settings: object) -> list[str]:
    path = folder / "narrow" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return []


def write(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return []


def long_row(folder: Path) -> list[str]:
    with gzip.open(folder / "rows.jsonl.gz", "wb", compresslevel=1) as stream:
        stream.write(b'{"prompt": "a", "completion": "' + b"b" * 2**25 + b'"}')
    return ["data.source=rows.jsonl.gz"]


def dots(folder: Path) -> list[str]:
    (folder / "narrow" / "inside").mkdir()
    return ["candidates=[narrow/inside/..]"]


CASES: list[tuple[Callable[[Path], list[str]], str]] = [
    (lambda _: ["sweep.growth=1.000000001"], "growth (1.000000001) makes 2,079,441,"),
    (lambda _: ["sweep.seeds=1000000000"], "'sweep.seeds': input should be less than or equal"),
    (lambda _: ["sweep=" + "[" * 100_000], "--set sweep=[[["),
    (lambda f: write(f / "pipelines.yaml", "pipelines: " + "[" * 10**5), "nested more than 100"),
    (dots, "candidates.0.name: '..': a name has letters"),
    (lambda f: change(f, n_layer=10**6), "n_layer = 1000000, which must be"),
    (lambda f: change(f, n_embd=10**9), "n_embd = 1000000000, which must be"),
    (lambda f: change(f, n_head=3), "no model can be built of its config.json"),
    (lambda f: change(f, n_embd=20_000), "they do not belong together"),
    (lambda f: write(f / "narrow" / "config.json", "[" * 10**5), "config.json is not JSON"),
    (lambda f: write(f / "narrow" / "model.safetensors", b"\xff" * 16), "cannot be loaded"),
    (lambda f: write(f / "rows.jsonl", "[" * 10**5), "line 1 cannot be read as JSON: lists"),
    (long_row, "line 1 has more than 16,777,216 bytes"),
]


@pytest.mark.parametrize(("prepare", "sentence"), CASES, ids=range(len(CASES)))
def test_a_plan_of_hostile_input_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path], list[str]],
    sentence: str,
) -> None:
    overrides = [text for one in prepare(folder) for text in ("--set", one)]
    begin = time.process_time()  # of this process: others may keep the processor busy
    code, _, said = lensllm(monkeypatch, capsys, "plan", "p", *overrides)
    assert time.process_time() - begin < 30
    assert code == 2
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_plan_names_the_template_that_does_not_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 1)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    chats = [
        [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        for row in rows
    ]
    write(folder / "rows.jsonl", "\n".join(json.dumps({"messages": chat}) for chat in chats))
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    write(folder / "narrow" / "chat_template.jinja", loop)
    code, printed, _ = lensllm(monkeypatch, capsys, "plan", "p", "--json")
    assert code == 0
    (failed,) = json.loads(printed)["failed"]
    assert failed["candidate"] == "narrow"
    assert "the chat template of narrow took more than 1 s" in failed["reason"]


def test_a_replay_of_a_number_without_end_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "losses.csv", "candidate,size,loss\na," + "9" * 5001 + ",1\n")
    code, _, said = lensllm(monkeypatch, capsys, "replay", "losses.csv")
    assert code == 2
    assert "is no training size" in said
    assert len(said) < 500

"""Users' own checkpoints and data file, and a candidate that cannot be trained."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lensllm.core import seeds
from lensllm.models.zoo import tokenizer
from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A data file, two checkpoints, and a configuration that names them."""
    draw = seeds.generator(0, "rows")
    words = ["red", "green", "blue", "small", "large", "round"]
    rows = []
    for _ in range(260):
        asked = draw.choice(words, 4).tolist()
        rows.append({"question": " ".join(asked), "answer": " ".join(sorted(asked))})
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    bpe = tokenizer.train([" ".join(words)] * 10, vocabulary=300)
    torch.manual_seed(0)
    ends = {"vocab_size": len(bpe), "bos_token_id": 0, "eos_token_id": 0}
    models = {
        "tiny-gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, **ends)),
        "tiny-llama": LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                **ends,
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        bpe.save_pretrained(tmp_path / name)
    content = {
        "pipelines": {
            "mine": {
                "data": {
                    "max_tokens": 32,
                    "source": str(tmp_path / "rows.jsonl"),
                    "prompt": "question",
                    "completion": "answer",
                    "validation_examples": 20,
                    "test_examples": 40,
                },
                "candidates": [str(tmp_path / name) for name in models],
                "sweep": {"min": 8, "max": 64},
                "kernel": {"probes": 8},
                "tracking": {"enabled": False},
            }
        }
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def run(project: Path, *more: str, command: str = "run"):
    return lensllm(
        command,
        "mine",
        "--file",
        project / "mine.yaml",
        "--artifacts",
        project / "artifacts",
        "--json",
        *more,
    )


@pytest.mark.full
def test_folders_and_a_data_file_rank_for_all_the_data(project: Path):
    done = run(project)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {"tiny-gpt2", "tiny-llama"} == {row["candidate"] for row in said["ranking"]}
    assert {None} == {row["measured"] for row in said["ranking"]}
    distinct = len(set((project / "rows.jsonl").read_text().splitlines()))
    assert distinct - 20 - 40 == said["target"]


@pytest.mark.full
def test_chats_rank_and_a_missing_template_is_said_before_training(project: Path):
    rows = [json.loads(line) for line in (project / "rows.jsonl").read_text().splitlines()]
    chats = [
        [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]
        for r in rows
    ]
    path = project / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    (project / "tiny-llama" / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    columns = ("--set", "data.prompt=prompt", "--set", "data.completion=completion")
    done = run(project, "--set", f"data.source={path}", *columns)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {"tiny-gpt2", "tiny-llama"} == {row["candidate"] for row in said["ranking"]}
    found = [(row["code"], row["candidate"]) for row in said["checks"]]
    assert ("LENS307", "tiny-gpt2") in found
    assert ("LENS307", "tiny-llama") not in found
    screen = done.stderr.splitlines()
    place = {
        word: i for i, line in enumerate(screen) for word in ("LENS307", "D=8 ") if word in line
    }
    assert place["LENS307"] < place["D=8 "]
    assert "LENS307" in (project / "artifacts" / "reports" / "mine" / "report.html").read_text()


@pytest.mark.full
def test_a_candidate_that_cannot_be_loaded_fails_alone(project: Path):
    weights = project / "tiny-llama" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run(project)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert [row["candidate"] for row in said["ranking"]] == ["tiny-gpt2"]
    assert {"tiny-llama"} == {f["step"].split()[1] for f in said["failed"]}
    assert str(project / "tiny-llama") in said["failed"][0]["reason"]


@pytest.mark.full
def test_a_sweep_with_a_policy_ends_by_saying_why_nothing_could_be_trained(project: Path):
    for name in ("tiny-gpt2", "tiny-llama"):
        weights = project / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    done = run(project, "--set", "sweep.policy=halving", "--set", "sweep.min=2")
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(project / "tiny-") in last


def test_a_column_that_does_not_exist_is_a_sentence(project: Path):
    done = run(project, "--set", "data.prompt=questoin", command="plan")
    assert done.returncode == 2
    assert "no column 'questoin' (did you mean 'question'?)" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_sweep_larger_than_the_data_is_a_sentence(project: Path):
    done = run(project, "--set", "sweep.max=4096", command="plan")
    assert done.returncode == 2
    assert "the sweep needs 4,096 training examples and the data has" in done.stderr


@pytest.mark.full
def test_a_curvature_that_fails_leaves_the_other_cells_and_the_ranking(project: Path):
    """Its worker is killed. It is said, and the same command makes what is missing."""
    artifacts = project / "artifacts"
    curvature = "curvature.sizes=[8]"
    command = subprocess.Popen(
        [*COMMAND, "run", "mine", "--file", project / "mine.yaml", "--artifacts", artifacts,
         "--json", "--set", curvature],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (locks := list((artifacts / ".locks").glob("curvature-*"))):
        assert command.poll() is None
        time.sleep(0.005)
    os.kill(holder(locks[0], command.pid), signal.SIGKILL)
    printed, said = command.communicate(timeout=HANG_SECONDS)
    assert command.returncode == 1, said
    summary = json.loads(printed)
    assert [row["step"].split()[0] for row in summary["failed"]] == ["curvature"]
    assert {"tiny-gpt2", "tiny-llama"} == {row["candidate"] for row in summary["ranking"]}
    killed = summary["failed"][0]["step"].split()[1]
    shown = (artifacts / "reports" / "mine" / "report.html").read_text()
    assert f"curvature {killed}" in shown

    again = run(project, "--set", curvature)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["failed"] == []


def holder(lock: Path, command: int) -> int:
    """The worker of ``command`` that has the file open."""
    for process in psutil.Process(command).children(recursive=True):
        with suppress(psutil.Error, OSError):
            files = Path(f"/proc/{process.pid}/fd").iterdir()
            if any(file.readlink() == lock for file in files):
                return process.pid
    raise AssertionError(f"nobody holds {lock}")


@pytest.mark.full
def test_a_candidate_that_does_not_fit_into_memory_says_what_it_needs(project: Path):
    """Small weights, but a matrix of attention per head that no half of a batch makes smaller."""
    config = GPT2Config(
        n_embd=512, n_head=512, n_layer=1, n_positions=512, vocab_size=300, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(project / "wide")
    for file in (project / "tiny-gpt2").glob("tokenizer*"):
        (project / "wide" / file.name).write_bytes(file.read_bytes())
    content = yaml.safe_load((project / "mine.yaml").read_text())
    mine = content["pipelines"]["mine"]
    mine["data"] |= {"max_tokens": 512, "validation_examples": 4, "test_examples": 4}
    mine["kernel"] = {"enabled": False}
    mine["candidates"].append(
        {"name": "wide", "model": str(project / "wide"), "finetune": {"attention": "eager"}}
    )
    (project / "mine.yaml").write_text(yaml.safe_dump(content))
    rows = [json.loads(line) for line in (project / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["question"] = " ".join([row["question"]] * 100)
    (project / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    limited = (  # every process of the command may allocate so much
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (2_600_000_000,) * 2); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *COMMAND, "run", "mine", "--file", project / "mine.yaml",
         "--artifacts", project / "artifacts", "--json"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert {"tiny-gpt2", "tiny-llama"} == {row["candidate"] for row in said["ranking"]}
    cells = [row for row in said["failed"] if row["step"].startswith("finetune wide")]
    assert len(cells) == 1 + 4  # zero-shot and every size
    for cell in cells:
        needed = re.search(
            r"out of memory on cpu.* training needs about ([\d.]+) GiB", cell["reason"]
        )
        assert needed
        assert 0.4 < float(needed[1]) < 3  # 512 heads of 512 x 512 numbers are 512 MiB
